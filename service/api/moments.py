"""The moment `request`, of each HTTP request, also of those that the gate refuses; and its trace context."""

import time
from collections.abc import Iterable
from typing import Any

from litestar.types import ASGIApp, Receive, Send

from service import telemetry
from service.telemetry import IS_TRACE_PARENT, TRACE_PARENT


class MeasuredRequests:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        TRACE_PARENT.set(_trace_parent(scope["headers"]))

        async def measured(message: Any) -> None:
            if message["type"] == "http.response.start":
                # Litestar notes the template of the route in the scope.
                telemetry.request(
                    method=scope["method"],
                    route=scope.get("path_template"),
                    status=message["status"],
                    seconds=time.monotonic() - began,
                )
            await send(message)

        await self._app(scope, receive, measured)


def _trace_parent(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The header `traceparent`; None if it is missing or malformed."""
    for name, value in headers:
        if name == b"traceparent":
            text = value.decode("latin-1")
            return text if IS_TRACE_PARENT.fullmatch(text) else None
    return None
