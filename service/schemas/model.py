"""Schemas, versions and rules."""

from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

from msgspec import UNSET, Struct

from service.limits import MAX_SUBJECT_NAME_CHARS

Kind: TypeAlias = Literal["JSON", "PROTOBUF"]
Level: TypeAlias = Literal[
    "NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"
]
Mode: TypeAlias = Literal["READWRITE", "READONLY"]
Rule: TypeAlias = Literal["compatibility", "mode"]

KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS: tuple[Level, ...] = get_args(Level)
MODES: tuple[Mode, ...] = get_args(Mode)

DEFAULT_LEVEL: Level = "BACKWARD"
DEFAULT_MODE: Mode = "READWRITE"
ALL_SUBJECTS = ""  # the subject of a rule that holds for all subjects without their own

SUBJECT_RULE = f"1 to {MAX_SUBJECT_NAME_CHARS} printable characters"
MAX_SCHEMA_BYTES = 1_000_000
MAX_EXTRAS_BYTES = 100_000


class Reference(Struct, frozen=True):
    """A schema imports another: `name` is what its text calls it."""

    name: str
    subject: str
    version: int


class NewSchema(Struct, frozen=True):
    """`extras` is kept for clients, which read it: {"metadata", "ruleSet"}."""

    kind: Kind
    schema: str
    refs: tuple[Reference, ...] = ()
    extras: dict[str, Any] | None = None


class Version(Struct, frozen=True):
    """A version of a subject, with its schema. `digest` tells schemas apart; `descriptor`: the FileDescriptorProto of a
    Protobuf schema."""

    subject: str
    version: int
    schema_id: int
    kind: Kind
    schema: str
    refs: tuple[Reference, ...]
    extras: dict[str, Any] | None
    descriptor: bytes | None
    digest: UUID
    deleted: bool


class Head(Struct, frozen=True):
    """A version of a subject without its schema, which can be large."""

    subject: str
    version: int
    digest: UUID
    deleted: bool


class Newest(Struct, frozen=True):
    """The newest version of a subject, in a list: without its schema, which can be large."""

    subject: str
    version: int
    schema_id: int
    kind: Kind
    digest: UUID
    deleted: bool


class Source(Struct, frozen=True):
    """A schema with those that it imports, by the name that its text calls them: JSON text, or descriptors."""

    kind: Kind
    content: bytes
    imports: dict[str, bytes] = {}


class CheckedRecord(Struct, frozen=True):
    """Whether the value of a record fits the schema of its topic. `value`: as it is stored, where that differs.
    `problem`: why it does not fit, one sentence; None: it fits."""

    schema_id: int | None = None
    value: Any = UNSET
    problem: str | None = None


class Registered(Struct, frozen=True):
    schema_id: int
    version: int
    digest: UUID


def is_subject(text: str) -> bool:
    return 1 <= len(text) <= MAX_SUBJECT_NAME_CHARS and text.isprintable()
