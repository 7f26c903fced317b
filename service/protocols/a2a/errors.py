"""Errors of the protocol, by code and reason, in the shapes of both bindings."""

import logging
from typing import Any, ClassVar

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from service.errors import (
    UNEXPECTED_DETAIL,
    Busy,
    Forbidden,
    LimitReached,
    NotFound,
    QueueFull,
    Refused,
    SchemaError,
    TooLarge,
    TooManyRequests,
    TreadleError,
    Unauthorized,
    Unavailable,
    WrongMediaType,
)
from service.protocols.a2a.model import Json, RpcError
from service.refusals import CHALLENGE, Plain

log = logging.getLogger(__name__)

# Those that say what to do: send a key, or try again later. They keep their statuses and headers in both bindings.
KEPT = (Unauthorized, Forbidden, Busy, QueueFull, LimitReached, TooManyRequests, TooLarge, WrongMediaType)
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    414: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class A2AError(Exception):
    """A request is answered with an error of the protocol. The text is one sentence."""

    code: ClassVar[int]
    reason: ClassVar[str]
    status: ClassVar[int] = 400
    name: ClassVar[str] = "FAILED_PRECONDITION"  # of the status, in REST


class TaskNotFound(A2AError):
    """There is no such task for this caller."""

    code, reason, status, name = -32001, "TASK_NOT_FOUND", 404, "NOT_FOUND"


class TaskNotCancelable(A2AError):
    """The task is over."""

    code, reason = -32002, "TASK_NOT_CANCELABLE"


class PushNotificationNotSupported(A2AError):
    """This server sends no notifications."""

    code, reason = -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"


class UnsupportedOperation(A2AError):
    """The state of the task does not allow it."""

    code, reason = -32004, "UNSUPPORTED_OPERATION"


class ContentTypeNotSupported(A2AError):
    """The agents do not take, or do not give, this type of content."""

    code, reason, name = -32005, "CONTENT_TYPE_NOT_SUPPORTED", "INVALID_ARGUMENT"


class ExtendedCardNotConfigured(A2AError):
    """The card says everything."""

    code, reason = -32007, "EXTENDED_AGENT_CARD_NOT_CONFIGURED"


class VersionNotSupported(A2AError):
    """The request is of another version of the protocol."""

    code, reason = -32009, "VERSION_NOT_SUPPORTED"


class ParseError(A2AError):
    """The request is not JSON."""

    code, reason, name = -32700, "PARSE_ERROR", "INVALID_ARGUMENT"


class InvalidRequest(A2AError):
    """The request is not one of JSON-RPC."""

    code, reason, name = -32600, "INVALID_REQUEST", "INVALID_ARGUMENT"


class MethodNotFound(A2AError):
    """There is no such method."""

    code, reason, status, name = -32601, "METHOD_NOT_FOUND", 404, "NOT_FOUND"


class InvalidParams(A2AError):
    """A value of the request is not accepted."""

    code, reason, name = -32602, "INVALID_PARAMS", "INVALID_ARGUMENT"


class AgentNotFound(InvalidParams):
    """There is no such agent for this caller."""

    status, name = 404, "NOT_FOUND"


class InternalError(A2AError):
    """The request failed in the service, or cannot be served now."""

    code, reason, status, name = -32603, "INTERNAL_ERROR", 500, "INTERNAL"


def as_a2a(error: Exception) -> A2AError:
    """The error of the protocol for an error of the service; for one that is not ours, without its text."""
    if isinstance(error, A2AError):
        return error
    if isinstance(error, NotFound):
        return TaskNotFound(str(error))
    if isinstance(error, KEPT):  # in a stream that has begun
        return InternalError(str(error))
    if isinstance(error, Refused):
        return InvalidParams(str(error))
    if isinstance(error, TreadleError):
        log.log(error.log_level, "request not served", extra={"error": str(error)})
        return InternalError(str(error))
    log.error("request failed", exc_info=error)
    return InternalError(UNEXPECTED_DETAIL)


def rpc_error(error: A2AError) -> RpcError:
    return RpcError(error.code, str(error), _details(error))


def rest_error(error: A2AError) -> Json:
    return {"error": {"code": error.status, "status": error.name, "message": str(error), "details": _details(error)}}


def _details(error: A2AError) -> list[Json]:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": error.reason, "domain": "a2a-protocol.org"}
    return [info]


def plain(status: int, message: str) -> Plain:
    """A refusal that says what to do, or that no route makes."""
    name = STATUS_NAMES.get(status, "INTERNAL")
    return Plain({"error": {"code": status, "status": name, "message": message, "details": []}})


def _plain(status: int, message: str, headers: dict[str, str]) -> Response[Json]:
    return Response(plain(status, message).body, status_code=status, headers=headers)


def _of_protocol(_: Request[Any, Any, Any], error: A2AError) -> Response[Json]:
    return Response(rest_error(error), status_code=error.status)


def _own_error(request: Request[Any, Any, Any], error: Refused | Unavailable | SchemaError) -> Response[Json]:
    if isinstance(error, Refused) and not isinstance(error, KEPT):
        return _of_protocol(request, as_a2a(error))
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, LimitReached):
        headers |= {"RateLimit-Policy": error.policy, "RateLimit": error.state}
    return _plain(error.status, str(error), headers)


def _litestar_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Json]:
    return _plain(error.status_code, str(error.detail).partition("\n")[0], dict(error.headers or {}))


def _unexpected_error(_: Request[Any, Any, Any], error: Exception) -> Response[Json]:
    return Response(rest_error(as_a2a(error)), status_code=500)


HANDLERS: ExceptionHandlersMap = {
    A2AError: _of_protocol,
    Refused: _own_error,
    Unavailable: _own_error,
    SchemaError: _own_error,
    HTTPException: _litestar_error,
    Exception: _unexpected_error,
}
