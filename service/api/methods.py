"""HEAD and OPTIONS for every route, and an `Allow` that names every method of it. HEAD is answered like GET without the
body."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from litestar.types import ASGIApp, Receive, Send

from service.streams import OPEN_ANSWER, OpenAnswer

UNUSED_METHOD = "TRACE"  # no route has it
METHOD_NOT_ALLOWED = 405


def complete_allow(allow: str) -> str:
    """The value of an Allow header, with HEAD, in alphabetical order."""
    methods = {method.strip() for method in allow.split(",") if method.strip()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


class EveryMethod:
    """The application `app`, which knows no HEAD, and whose OPTIONS names the methods of one handler of several."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        method = scope.get("method")  # a WebSocket has none
        if method == "HEAD":
            return self._head(scope, send)
        if method == "OPTIONS":
            return self._options(scope, receive, send)
        return self._app(scope, receive, send)

    async def _head(self, scope: Any, send: Send) -> None:
        """GET, until it has answered its head. What still runs then sees that its client is gone."""
        answered = asyncio.Event()

        async def receive_end() -> Any:
            await answered.wait()
            return {"type": "http.disconnect"}

        async def send_head(message: Any) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                answered.set()

        as_get: Any = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive_end, send_head)
        finally:
            answer: OpenAnswer | None = as_get.get(OPEN_ANSWER)
            if answer is not None:
                answer.end()  # its parts are not sent

    async def _options(self, scope: Any, receive: Receive, send: Send) -> None:
        """The refusal of a method that no route has names those that the route has; its body is not sent."""
        refused = False

        async def send_allowed(message: Any) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == METHOD_NOT_ALLOWED:
                refused = True
                headers = [(name, value) for name, value in message["headers"] if name.lower() == b"allow"]
                await send({"type": "http.response.start", "status": 204, "headers": headers})
            elif refused:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        as_unused: Any = {**scope, "method": UNUSED_METHOD}
        await self._app(as_unused, receive, send_allowed)
