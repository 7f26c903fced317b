"""HTTP/1.1 and WebSocket by uvicorn, with limits it does not have: on what comes before a body, on the time that a
request takes to arrive, and on how long a socket waits for a peer that takes nothing."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_HEAD_BYTES = 1_000_000  # far above any request's; without it one client's endless header holds everybody up
ARRIVAL_SECONDS = 60.0  # for a whole request, from the connection's opening or its own first byte
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
BAD_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
SEND_BUFFER = 128 * 1024  # bytes that the kernel keeps of a socket, beyond uvicorn's 64 KiB: how far a peer is behind
LINGER_SECONDS = 3.0  # for a peer to take what is left when its socket is closed


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


class SocketProtocol(WebSocketsSansIOProtocol):
    """A socket's send waits while more than 64 KiB are unsent. Its pings, and the silence after which it is closed, are
    the application's KEEPALIVE_INTERVAL; whatever comes from the peer breaks that silence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = LINGER_SECONDS
        self._heard = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)
        if not self.handshake_initiated:  # the whole request is the first data; to a bad one uvicorn says nothing
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_HANDSHAKE)
            self.transport.close()

    def keepalive_timeout(self) -> None:
        if self.read_paused or self._heard >= self.ping_sent_at:  # its pong is behind what else it says
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self._abort_later()

    def eof_received(self) -> None:
        self._abort_later()  # asyncio closes the transport now

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._abort_later()

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # uvicorn would fail to close it a second time
            super().shutdown()
        self._abort_later()

    def _abort_later(self) -> None:
        """A transport that is closed waits for its peer to take the rest, without end."""
        if not self.disconnected:
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
