"""What a child is asked, and its answers."""

from typing import TypeAlias

from msgspec import Struct

from service.schemas.model import Source


class Pair(Struct, frozen=True):
    reader: Source
    writer: Source


class Compare(Struct, frozen=True, tag=True):
    """For each pair: why the reader does not read the writer's values? The answer is a `list[list[str]]`; an empty one
    inside: it reads them."""

    pairs: list[Pair]


class Validate(Struct, frozen=True, tag=True):
    """Is the source a JSON Schema? The answer is None, or a sentence that says why not."""

    source: Source


class Fit(Struct, frozen=True, tag=True):
    """Do the values (a JSON array) fit a JSON Schema? `source`: a Source in MessagePack, by which a child keeps what it
    has compiled. The answer is a FirstMisfit, or None: all fit."""

    source: bytes
    values: bytes


class FirstMisfit(Struct, frozen=True):
    """The first value that does not fit: its number, where in it (a JSON pointer), and why. Without a number: why no
    value can be checked."""

    number: int | None
    pointer: str
    reason: str


Question: TypeAlias = Compare | Validate | Fit
