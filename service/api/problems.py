"""Errors as RFC 9457 problem+json: one sentence in `detail`, and never a stack trace."""

import logging
from http import HTTPStatus
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from service.errors import Refused, SchemaError, Unavailable

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class Problem(Struct, frozen=True):
    """RFC 9457; `type` stays about:blank, so `title` is the status's phrase or the error's name."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"


def _answer(status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> Response[Problem]:
    return Response(Problem(title, status, detail), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _refused(_: Request[Any, Any, Any], error: Refused | Unavailable) -> Response[Problem]:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
    return _answer(error.status, error.title, str(error), headers)


def _schema(_: Request[Any, Any, Any], error: SchemaError) -> Response[Problem]:
    return _answer(503, Unavailable.title, str(error), {"Retry-After": "5"})


def _invalid(_: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    """What does not fit the declared types: of the body (422), or of a path or query parameter (400)."""
    first = next(iter(error.extra or ()), None)
    if not isinstance(first, dict):
        return _answer(400, "Bad request", _sentence(str(error.detail)))
    place, reason = str(first.get("key") or "the body"), str(first.get("message", ""))
    in_body = str(first.get("source", "body")).endswith("body")
    status = 422 if in_body else 400
    return _answer(
        status, HTTPStatus(status).phrase, _sentence(f"{place}: {reason}" if place not in {"", "data"} else reason)
    )


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    detail = error.detail if error.detail else HTTPStatus(error.status_code).phrase
    return _answer(
        error.status_code, HTTPStatus(error.status_code).phrase, _sentence(detail), dict(error.headers or {})
    )


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    log.error("unexpected error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return _answer(500, "Internal server error", "Something went wrong here; the server's log tells what.")


def _sentence(text: str) -> str:
    text = text.partition("\n")[0].strip()
    return text if text.endswith(".") else f"{text}."


HANDLERS: ExceptionHandlersMap = {
    Refused: _refused,
    Unavailable: _refused,
    SchemaError: _schema,
    ValidationException: _invalid,
    HTTPException: _http,
    Exception: _unexpected,
}
