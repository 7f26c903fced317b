"""What the child process is asked, and its answer."""

from typing import Literal

from msgspec import Struct


class Side(Struct, frozen=True):
    """A schema with those that it imports, by the name that its text calls them: JSON text, or descriptors."""

    kind: Literal["JSON", "PROTOBUF"]
    content: bytes
    imports: dict[str, bytes] = {}


class Pair(Struct, frozen=True):
    reader: Side
    writer: Side


class Question(Struct, frozen=True):
    pairs: list[Pair]


class Answer(Struct, frozen=True):
    """For each pair, why the reader does not read the writer's values; empty: it does."""

    reasons: list[list[str]]
