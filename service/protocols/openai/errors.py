"""Errors in the dialect: {"error": {message, type, param, code}}, with the statuses and headers that its SDKs act on.

The SDKs send a request again after 408, 409, 429 and 5xx, unless the header x-should-retry is `false`. So there is no
409, and a repeat is invited only where nothing was written, or where the repeat finds what was written.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from service.errors import (
    UNEXPECTED_DETAIL,
    Busy,
    Forbidden,
    LimitReached,
    NotConnected,
    NotFound,
    QueueFull,
    Refused,
    SchemaError,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    Unprocessable,
    WrongMediaType,
)
from service.protocols.openai.model import Error, ErrorAnswer
from service.refusals import CHALLENGE, Plain

log = logging.getLogger(__name__)

INVALID = "invalid_request_error"
SERVER = "server_error"


class UnknownPrevious(NotFound):
    """There is no response with the id that `previous_response_id` names."""


class NotWaiting(Refused):
    """The response does not wait for the outputs of these function calls."""


class Failed(Refused):
    """The message that a chat completion waited for failed or was cancelled."""

    status = 500


class Unread(Unavailable):
    """The request was carried out, or may have been, and its answer could not be read. `is_repeatable`: the same
    request again finds what it has written."""

    def __init__(self, text: str, *, is_repeatable: bool) -> None:
        super().__init__(text)
        self.is_repeatable = is_repeatable


# By class, the nearest first: status, type, code.
SHAPES: dict[type[Exception], tuple[int, str, str | None]] = {
    Unauthorized: (401, INVALID, "invalid_api_key"),
    Forbidden: (403, "permission_error", "insufficient_permissions"),
    UnknownPrevious: (404, INVALID, "previous_response_not_found"),
    NotFound: (404, INVALID, "not_found"),
    Busy: (503, SERVER, "busy"),
    TooLarge: (413, INVALID, "body_too_large"),
    WrongMediaType: (415, INVALID, "wrong_media_type"),
    QueueFull: (429, "rate_limit_error", "rate_limit_exceeded"),
    LimitReached: (429, "rate_limit_error", "rate_limit_exceeded"),
    TooManyRequests: (429, "rate_limit_error", "rate_limit_exceeded"),
    Failed: (500, SERVER, SERVER),
    Unprocessable: (400, INVALID, "invalid_value"),
    Refused: (400, INVALID, None),
    Unavailable: (503, SERVER, "unavailable"),
    SchemaError: (503, SERVER, "unavailable"),
}
CODES = {  # of refusals that no route makes
    400: "invalid_value",
    403: "insufficient_permissions",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    414: "query_too_long",
    415: "wrong_media_type",
    429: "rate_limit_exceeded",
}
REPEATABLE = (Busy, QueueFull, LimitReached, TooManyRequests, SchemaError)  # nothing was written
UNREAD = "The request was carried out, or may have been, but its answer could not be read: GET /v1/responses/{} has it."


@contextlib.contextmanager
def carried_out(response_id: object = None, *, is_repeatable: bool, is_carried_out: bool = True) -> Iterator[None]:
    """The request was carried out before this block; not `is_carried_out`: in it. Raises Unread for Unavailable and
    SchemaError, unless nothing was written."""
    try:
        yield
    except (Unavailable, SchemaError) as error:
        if not is_carried_out and isinstance(error, NotConnected) and not error.sent:
            raise
        text = str(error) if is_repeatable else UNREAD.format(response_id)
        raise Unread(text, is_repeatable=is_repeatable) from error


def describe(error: Exception) -> tuple[int, Error]:
    """The status of an error, and its shape; for one that is not ours, without its text."""
    for kind in type(error).__mro__:
        if kind in SHAPES:
            status, type_, code = SHAPES[kind]
            return status, Error(str(error), type_, code=code)
    return 500, Error(UNEXPECTED_DETAIL, SERVER, code=SERVER)


def plain(status: int, detail: str) -> Plain:
    """A refusal that no route makes."""
    type_ = {429: "rate_limit_error", 403: "permission_error"}.get(status, INVALID if status < 500 else SERVER)
    again = "true" if status == 429 else "false"
    return Plain(ErrorAnswer(Error(detail, type_, code=CODES.get(status))), headers={"x-should-retry": again})


def headers_of(error: Refused | Unavailable | SchemaError) -> dict[str, str]:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, LimitReached):
        headers |= {"RateLimit-Policy": error.policy, "RateLimit": error.state}
    return headers


def _own_error(request: Request[Any, Any, Any], error: Refused | Unavailable | SchemaError) -> Response[ErrorAnswer]:
    status, shape = describe(error)
    again = request.method == "GET" if isinstance(error, Unavailable) else isinstance(error, REPEATABLE)
    if isinstance(error, Unread):
        again = error.is_repeatable
    elif isinstance(error, NotConnected) and not error.sent:
        again = True
    headers = {**headers_of(error), "x-should-retry": "true" if again else "false"}
    return Response(ErrorAnswer(shape), status_code=status, headers=headers)


def _litestar_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorAnswer]:
    refusal = plain(error.status_code, str(error.detail).partition("\n")[0])
    return Response(refusal.body, status_code=error.status_code, headers={**(error.headers or {}), **refusal.headers})


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    log.error("unexpected error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    status, shape = describe(error)
    return Response(ErrorAnswer(shape), status_code=status, headers={"x-should-retry": "false"})


HANDLERS: ExceptionHandlersMap = {
    Refused: _own_error,
    Unavailable: _own_error,
    SchemaError: _own_error,
    HTTPException: _litestar_error,
    Exception: _unexpected_error,
}
