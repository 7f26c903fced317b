"""The moment `request`, of each HTTP request, also of those that the gate refuses."""

import time
from typing import Any

from litestar.types import ASGIApp, Receive, Send

from service import telemetry


class MeasuredRequests:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

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
