"""Counts the streams and sockets that a client has open."""

from typing import Any

from litestar.enums import ScopeType
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from service.api.gate.limits import ClientLimits, address_of
from service.api.problems import send_problem
from service.errors import TooManyRequests
from service.events.sse import MEDIA_TYPE


def limiting_streams(limits: ClientLimits) -> Any:
    """Middleware: a stream or socket beyond CLIENT_OPEN_STREAMS is refused."""

    def limiting(app: ASGIApp) -> ASGIApp:
        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            if not _stays_open(scope):
                await app(scope, receive, send)
                return
            client = address_of(scope["client"])
            try:
                limits.open_stream(client)
            except TooManyRequests as error:
                await send_problem(scope, send, error)
                return
            try:
                await app(scope, receive, send)
            finally:
                limits.close_stream(client)

        return limited

    return limiting


def _stays_open(scope: Scope) -> bool:
    if scope["type"] == ScopeType.WEBSOCKET:
        return True
    handler = scope.get("route_handler")
    return isinstance(handler, HTTPRouteHandler) and handler.media_type == MEDIA_TYPE
