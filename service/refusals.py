"""Refusals as clients receive them: the JSON of a problem (RFC 9457), and their description in OpenAPI."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from litestar.openapi import ResponseSpec
from msgspec import Struct

from service.errors import Refused, SchemaError, Unavailable

MEDIA_TYPE = "application/problem+json"
CHALLENGE = 'Bearer realm="treadle"'  # the header WWW-Authenticate of a 401

Refusal: TypeAlias = type[Refused | Unavailable]


class Problem(Struct, frozen=True):
    """`type` is always about:blank, so `title` is the name of the error or the phrase of the status."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


class MisfitProblem(Problem, frozen=True):
    """`pointer`: where in a message a value does not fit the input of its agent (RFC 6901)."""

    pointer: str = ""


class Plain(NamedTuple):
    """A refusal in the shape of a dialect."""

    body: Any
    media_type: str = "application/json"
    headers: Mapping[str, str] = MappingProxyType({})


def problem_of(error: Refused | Unavailable | SchemaError) -> Plain:
    return Plain(Problem(error.title, error.status, str(error)), MEDIA_TYPE)


def refusals(*errors: Refusal) -> dict[int, ResponseSpec]:
    """The answers of a route that raises these errors. `api.description` adds those of every route."""
    return {error.status: describe((error.__doc__ or "").partition("\n\n")[0]) for error in errors}


def describe(text: str) -> ResponseSpec:
    return ResponseSpec(Problem, generate_examples=False, description=text, media_type=MEDIA_TYPE)
