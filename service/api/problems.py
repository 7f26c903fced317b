"""Errors as problem+json (RFC 9457): one sentence in `detail`, never a stack trace."""

import logging
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import KwargDefinition
from litestar.types import ExceptionHandlersMap, Send

from service.api.dialects import shape
from service.api.methods import complete_allow
from service.errors import (
    UNEXPECTED_DETAIL,
    Invalid,
    LimitReached,
    Misfit,
    Refused,
    SchemaError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from service.refusals import CHALLENGE, MEDIA_TYPE, MisfitProblem, Problem

log = logging.getLogger(__name__)

MAX_QUOTED_CHARS = 200  # of a path


def encode_problem(status: int, detail: str) -> bytes:
    return msgspec.json.encode(Problem(HTTPStatus(status).phrase.capitalize(), status, detail))


async def send_problem(scope: Any, send: Send, error: Refused) -> None:
    """Answer a request, or the handshake of a socket, that reaches no route, in the shape of its dialect."""
    plain = shape(scope["path"], error.status, error.title, str(error))
    body = msgspec.json.encode(plain.body)
    headers = [(b"content-type", plain.media_type.encode()), (b"content-length", b"%d" % len(body))]
    headers += [(name.encode(), value.encode()) for name, value in plain.headers.items()]
    if error.retry_after:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    prefix = "http.response" if scope["type"] == "http" else "websocket.http.response"
    events: list[Any] = [
        {"type": f"{prefix}.start", "status": error.status, "headers": headers},
        {"type": f"{prefix}.body", "body": body, "more_body": False},
    ]
    for event in events:
        await send(event)


def encode_response(status: int, detail: str, retry_after: int | None = None) -> bytes:
    """A whole HTTP response, where the application never sees the request. The connection is closed after it."""
    body = encode_problem(status, detail)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        "connection: close",
        "x-content-type-options: nosniff",
        *([f"retry-after: {retry_after}"] if retry_after else []),
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _respond(
    request: Request[Any, Any, Any], status: int, title: str, detail: str, headers: dict[str, str] | None = None
) -> Response[Any]:
    """In the shape of the dialect: its own handlers do not see errors of Litestar that have a handler here."""
    plain = shape(request.url.path, status, title, detail)
    merged = {**(headers or {}), **plain.headers}
    return Response(plain.body, status_code=status, media_type=plain.media_type, headers=merged)


def _own_error(request: Request[Any, Any, Any], error: Refused | Unavailable | SchemaError) -> Response[Any]:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, LimitReached):
        headers |= {"RateLimit-Policy": error.policy, "RateLimit": error.state}
    if isinstance(error, Misfit):
        problem = MisfitProblem(error.title, error.status, str(error), pointer=error.pointer)
        return Response(problem, status_code=error.status, media_type=MEDIA_TYPE)
    return _respond(request, error.status, error.title, str(error), headers)


def _invalid_parameter(request: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    """A parameter outside its declared range, or a missing body. (api.bodies refuses a body that does not fit.)"""
    first = next(iter(error.extra or ()), None)
    name = str(first.get("key", "")) if isinstance(first, dict) else ""
    parameter = request.route_handler.parsed_fn_signature.parameters.get(name)
    if name == "data":
        detail = "The request has no body; send JSON."
    elif parameter is not None and isinstance(parameter.kwarg_definition, KwargDefinition):
        detail = f"{name} must be {parameter.kwarg_definition.description}."
    else:
        detail = _sentence(str(error.detail))
    return _respond(request, Invalid.status, Invalid.title, detail)


def _body_too_large(request: Request[Any, Any, Any], _: RequestEntityTooLarge) -> Response[Any]:
    limit = request.route_handler.resolve_request_max_body_size()
    detail = f"The body is too large; at most {limit} bytes (MAX_BODY_BYTES) are allowed."
    return _respond(request, TooLarge.status, TooLarge.title, detail)


def _litestar_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    status, headers, path = HTTPStatus(error.status_code), dict(error.headers or {}), request.url.path
    detail = error.detail or status.phrase
    if status == HTTPStatus.NOT_FOUND:
        detail = f"There is no route {path[:MAX_QUOTED_CHARS]}; /docs lists the routes"
    elif headers.get("allow") == "websocket":
        status, headers = HTTPStatus.UPGRADE_REQUIRED, {"Upgrade": "websocket", "Connection": "Upgrade"}
        detail = "This address takes only WebSocket connections"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = complete_allow(headers.get("allow", ""))
        detail = f"{request.method} is not allowed for this route; use {headers['allow']}"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", extra={"method": request.method, "path": path, "error": detail})
    return _respond(request, status, status.phrase.capitalize(), _sentence(detail), headers)


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("unexpected error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return _respond(request, 500, "Internal server error", UNEXPECTED_DETAIL)


def _sentence(text: str) -> str:
    text = text.partition("\n")[0].strip()
    return text if text.endswith(".") else f"{text}."


HANDLERS: ExceptionHandlersMap = {
    Refused: _own_error,
    Unavailable: _own_error,
    SchemaError: _own_error,
    ValidationException: _invalid_parameter,
    RequestEntityTooLarge: _body_too_large,
    HTTPException: _litestar_error,
    Exception: _unexpected_error,
}
