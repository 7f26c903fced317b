"""Schemas between the dialect and the registry."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from litestar import Request
from msgspec import UNSET

from service.protocols.schema_registry.model import SchemaAnswer, SchemaRequest
from service.schemas.errors import InvalidSchema
from service.schemas.model import KINDS, NewSchema, Version

Item = TypeVar("Item")

EXTRAS = ("metadata", "ruleSet")


def new_schema(request: SchemaRequest) -> NewSchema:
    """Raises InvalidSchema for a kind that is not known."""
    kind = next((kind for kind in KINDS if kind == request.schemaType), None)
    if kind is None:
        raise InvalidSchema(f"schemaType must be one of {' and '.join(KINDS)}; without one it is AVRO.")
    given = {name: getattr(request, name) for name in EXTRAS}
    extras = {name: value for name, value in given.items() if value is not None} or None
    return NewSchema(kind, request.schema, tuple(request.references or ()), extras)


def answer(version: Version, *, format: str | None = None, of_subject: bool = True) -> SchemaAnswer:
    """`format`: `serialized` asks for the descriptor of a Protobuf schema. `of_subject`: with the subject and the
    number of the version."""
    text = version.schema
    if format == "serialized" and version.descriptor is not None:
        text = base64.b64encode(version.descriptor).decode()
    extras = version.extras or {}
    return SchemaAnswer(
        schema=text,
        schemaType=version.kind,
        references=list(version.refs),
        guid=str(version.digest),
        metadata=extras.get("metadata", UNSET),
        ruleSet=extras.get("ruleSet", UNSET),
        id=version.schema_id,
        subject=version.subject if of_subject else UNSET,
        version=version.version if of_subject else UNSET,
    )


def flag(request: Request[Any, Any, Any], *names: str) -> bool:
    """Whether the query has one of these as `true`. Python's client writes `True`."""
    return any(request.query_params.get(name, "").lower() == "true" for name in names)


def page(request: Request[Any, Any, Any], items: Sequence[Item]) -> list[Item]:
    """The part of a list that the query asks for."""
    offset, limit = bounds(request)
    return list(items[offset:][:limit])


def bounds(request: Request[Any, Any, Any]) -> tuple[int, int | None]:
    """`offset` and `limit` of the query; a limit below 0 does not limit."""
    offset, limit = (_number(request.query_params, name, default) for name, default in (("offset", 0), ("limit", -1)))
    return max(offset, 0), limit if limit >= 0 else None


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= 9 else default
