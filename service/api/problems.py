"""Errors as RFC 9457 problem+json: one sentence in `detail`, and never a stack trace."""

import logging
from http import HTTPStatus
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import KwargDefinition
from litestar.types import ExceptionHandlersMap
from msgspec import Struct

from service.errors import Invalid, Refused, SchemaError, TooLarge, Unavailable

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


def _invalid(request: Request[Any, Any, Any], error: ValidationException) -> Response[Problem]:
    """A parameter that does not fit, or no body where there must be one; bodies that do not fit are api.bodies'."""
    first = next(iter(error.extra or ()), None)
    name = str(first.get("key", "")) if isinstance(first, dict) else ""
    parameter = request.route_handler.parsed_fn_signature.parameters.get(name)
    if name == "data":
        detail = "The request has no body: JSON is expected."
    elif parameter is not None and isinstance(parameter.kwarg_definition, KwargDefinition):
        detail = f"{name} must be {parameter.kwarg_definition.description}."
    else:
        detail = _sentence(str(error.detail))
    return _answer(Invalid.status, Invalid.title, detail)


def _too_large(request: Request[Any, Any, Any], _: RequestEntityTooLarge) -> Response[Problem]:
    limit = request.route_handler.resolve_request_max_body_size()
    return _answer(TooLarge.status, TooLarge.title, f"The body is too large: at most {limit} bytes are allowed.")


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    status, headers, path = HTTPStatus(error.status_code), dict(error.headers or {}), request.url.path
    detail = error.detail or status.phrase
    if status == HTTPStatus.NOT_FOUND:
        detail = f"There is nothing at {path[:200]}"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not allowed here, but {headers.get('allow')}"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", extra={"method": request.method, "path": path, "error": detail})
    return _answer(status, status.phrase.capitalize(), _sentence(detail), headers)


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
    RequestEntityTooLarge: _too_large,
    HTTPException: _http,
    Exception: _unexpected,
}
