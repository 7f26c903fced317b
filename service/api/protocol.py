"""HTTP/1.1 by uvicorn and httptools, with limits they do not have: on what comes before a body, and on the time that a
request takes to arrive."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 1_000_000  # far above any request's; without it one client's endless header holds everybody up
ARRIVAL_SECONDS = 60.0  # for a whole request, from the connection's opening or its own first byte
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class LimitedProtocol(HttpToolsProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0  # bytes since the last request's end, as long as headers are read
        self._in_head = True
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(ARRIVAL_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._late is None:
            self._late = self.loop.call_later(ARRIVAL_SECONDS, self.transport.close)
        if self._in_head:
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES:
                self.transport.write(TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._arrived()
        self._head, self._in_head = 0, True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._arrived()  # from here the connection is another protocol's
        super().handle_websocket_upgrade()

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
