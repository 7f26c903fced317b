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


class Read(Struct, frozen=True, tag=True):
    """Read the text of a new schema (`service.schemas.documents.read`). The answer is a Content, or a sentence (str)
    that says why it is no schema."""

    text: Source


class Content(Struct, frozen=True):
    content: bytes


class Value(Struct, frozen=True):
    """JSON, or a Protobuf message in binary."""

    content: bytes
    is_binary: bool


class Fit(Struct, frozen=True, tag=True):
    """Do the values fit the schema? `key` stands for its source, which a child that has read it keeps compiled. The
    answer is a Fitting or a FirstMisfit; or Unknown, where there is no source and the child does not know the key."""

    key: bytes
    values: list[Value]
    source: Source | None = None


class Unknown(Struct, frozen=True, tag=True):
    pass


class Fitting(Struct, frozen=True, tag=True):
    """All values fit. Those of a Protobuf schema are stored as this JSON, the others (None) as they are."""

    stored: list[bytes | None]


class FirstMisfit(Struct, frozen=True, tag=True):
    """The first value that does not fit: its number, where in it (a JSON pointer), and why. Without a number: why no
    value can be checked."""

    number: int | None
    pointer: str
    reason: str


Question: TypeAlias = Compare | Read | Fit
