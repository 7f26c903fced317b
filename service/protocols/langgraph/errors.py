"""Errors in the dialect: {"detail": ...}."""

import logging
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from service.errors import UNEXPECTED_DETAIL, LimitReached, Refused, SchemaError, Unauthorized, Unavailable
from service.refusals import CHALLENGE, Plain

log = logging.getLogger(__name__)


class NotServed(Refused):
    """The API of a LangGraph server has it, and this one does not."""

    status = 501


def plain(_: int, detail: str) -> Plain:
    """A refusal that no route makes."""
    return Plain({"detail": detail})


def _own_error(_: Request[Any, Any, Any], error: Refused | Unavailable | SchemaError) -> Response[Any]:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = CHALLENGE
    if isinstance(error, LimitReached):
        headers |= {"RateLimit-Policy": error.policy, "RateLimit": error.state}
    return Response({"detail": str(error)}, status_code=error.status, headers=headers)


def _litestar_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    detail = str(error.detail).partition("\n")[0]
    return Response({"detail": detail}, status_code=error.status_code, headers=error.headers or {})


def _unexpected_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("unexpected error", exc_info=error, extra={"method": request.method, "path": request.url.path})
    return Response({"detail": UNEXPECTED_DETAIL}, status_code=500)


HANDLERS: ExceptionHandlersMap = {
    Refused: _own_error,
    Unavailable: _own_error,
    SchemaError: _own_error,
    HTTPException: _litestar_error,
    Exception: _unexpected_error,
}
