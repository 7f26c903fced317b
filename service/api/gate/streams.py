"""Counts what a client has open, and what a key asks for."""

from functools import partial

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.api.problems import send_problem
from service.api.services import find_service
from service.client_limits import ClientLimits, address_of, key_of, pause
from service.errors import TooManyRequests
from service.streams import OPEN_ANSWER, OpenAnswer


def limit_streams(app: ASGIApp) -> ASGIApp:
    """Middleware: refuses a stream or socket beyond CLIENT_OPEN_STREAMS of an address."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and not _is_stream(scope):
            await app(scope, receive, send)
            return
        limits: ClientLimits = find_service("limits")
        client = address_of(scope["client"])
        try:
            limits.open_stream(client)
        except TooManyRequests as error:
            await send_problem(scope, send, error)
            return
        await _run_counted(app, scope, receive, send, partial(limits.close_stream, client))

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
        if not _is_stream(scope):
            await app(scope, receive, send)
            return
        limits.open_stream(client)
        await _run_counted(app, scope, receive, send, partial(limits.close_stream, client))

    return limited


async def _run_counted(app: ASGIApp, scope: Scope, receive: Receive, send: Send, end: partial[None]) -> None:
    """`end` is called when the request has its answer: where that stays open, not before its last part."""
    try:
        await app(scope, receive, send)
    finally:
        answer: OpenAnswer | None = scope.get(OPEN_ANSWER)  # type: ignore[assignment]  # a key of our own
        if answer is None:
            end()
        else:
            answer.at_end(end)


def _is_stream(scope: Scope) -> bool:
    """Also a request that may stay open as long as an agent works: always, or (`wait`) where it asks to wait."""
    options = scope["route_handler"].opt
    stays_open = options.get("stays_open", "is_stream" in options)
    return _asks_to_wait(scope) if stays_open == "wait" else bool(stays_open)


def _asks_to_wait(scope: Scope) -> bool:
    return b"wait=" in scope["query_string"] or any(
        name == b"prefer" and b"wait=" in value for name, value in scope["headers"]
    )
