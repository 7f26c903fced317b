"""Requests and answers as clients of the dialect know them: its fields, in its spelling."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from service.schemas.model import Level, Mode, Reference


class SchemaRequest(Struct, frozen=True):
    """A schema to register, look up or check. Clients send more fields, which mean nothing here."""

    schema: str
    schemaType: str = "AVRO"
    references: list[Reference] | None = None
    metadata: dict[str, Any] | None = None
    ruleSet: dict[str, Any] | None = None


class SchemaAnswer(Struct, frozen=True):
    schema: str
    schemaType: str
    references: list[Reference]
    guid: str
    metadata: Any = UNSET
    ruleSet: Any = UNSET
    id: int | UnsetType = UNSET
    subject: str | UnsetType = UNSET
    version: int | UnsetType = UNSET


class RegisteredAnswer(Struct, frozen=True):
    id: int
    version: int
    guid: str


class SubjectVersion(Struct, frozen=True):
    subject: str
    version: int


class Compatibility(Struct, frozen=True):
    is_compatible: bool
    messages: list[str] | UnsetType = UNSET


class LevelRequest(Struct, frozen=True, forbid_unknown_fields=True):
    compatibility: str


class LevelSet(Struct, frozen=True):
    compatibility: Level


class LevelAnswer(Struct, frozen=True):
    compatibilityLevel: Level


class ModeRequest(Struct, frozen=True):
    mode: str


class ModeAnswer(Struct, frozen=True):
    mode: Mode


class Error(Struct, frozen=True):
    error_code: int
    message: str
