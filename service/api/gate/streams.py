"""Counts what a client has open, and what a key asks for."""

from contextlib import ExitStack

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.api.problems import send_problem
from service.api.services import find_service
from service.client_limits import ClientLimits, address_of, key_of, pause
from service.errors import TooManyRequests


def limit_streams(app: ASGIApp) -> ASGIApp:
    """Middleware: refuses a stream or socket beyond CLIENT_OPEN_STREAMS of an address."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and not _is_stream(scope):
            await app(scope, receive, send)
            return
        limits: ClientLimits = find_service("limits")
        opened = ExitStack()
        try:
            opened.enter_context(limits.stream(address_of(scope["client"])))
        except TooManyRequests as error:
            await send_problem(scope, send, error)
            return
        with opened:
            await app(scope, receive, send)

    return limited


def limit_keys(app: ASGIApp) -> ASGIApp:
    """Middleware behind authentication: the limits of a key. (Those of a socket's key: sockets/admission.)"""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooManyRequests."""
        principal = scope.get("user") if scope["type"] == ScopeType.HTTP else None
        if principal is None:
            await app(scope, receive, send)
            return
        limits: ClientLimits = find_service("limits")
        client = key_of(principal)
        try:
            limits.count_request(client)
        except TooManyRequests:
            await pause()
            raise
        with ExitStack() as opened:
            if _is_stream(scope):
                opened.enter_context(limits.stream(client))
            await app(scope, receive, send)

    return limited


def _is_stream(scope: Scope) -> bool:
    """Also a request that may stay open as long as an agent works: always, or (`wait`) where it asks to wait."""
    options = scope["route_handler"].opt
    stays_open = options.get("stays_open", "is_stream" in options)
    return _asks_to_wait(scope) if stays_open == "wait" else bool(stays_open)


def _asks_to_wait(scope: Scope) -> bool:
    return b"wait=" in scope["query_string"] or any(
        name == b"prefer" and b"wait=" in value for name, value in scope["headers"]
    )
