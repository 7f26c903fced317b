"""uvicorn's protocols for HTTP/1.1 and WebSocket, with limits that uvicorn lacks: on the size of a request's head, on
the time that a request takes to arrive, and on how long a socket waits for a client that does not read."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_HEAD_BYTES = 1_000_000  # without it, parsing one client's endless header would block all other clients
ARRIVAL_SECONDS = 60.0  # for a whole request, from the opening of the connection or from its own first byte
HEAD_TOO_LARGE_RESPONSE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)
BAD_HANDSHAKE_RESPONSE = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
SEND_BUFFER_BYTES = 128 * 1024  # that the kernel keeps for a slow reader, beyond uvicorn's own 64 KiB
LINGER_SECONDS = 3.0  # that a client gets to read the rest when its socket is closed


class LimitedProtocol(HttpToolsProtocol):
    """HTTP with a limit on the head of a request and a deadline for its arrival."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0  # since the end of the last request, while headers arrive
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._deadline = self.loop.call_later(ARRIVAL_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_SECONDS, self.transport.close)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(HEAD_TOO_LARGE_RESPONSE)
                self.transport.close()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._cancel_deadline()
        self._head_bytes, self._in_head = 0, True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._cancel_deadline()  # from here on another protocol has the connection
        super().handle_websocket_upgrade()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class SocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket whose `send` waits while more than 64 KiB are unsent. It pings every KEEPALIVE_INTERVAL and closes a
    socket from which nothing comes for as long; any data counts, not only a pong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.close_timeout = LINGER_SECONDS
        self._last_data_at = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        self._last_data_at = self.loop.time()
        super().data_received(data)
        if not self.handshake_initiated:  # the first data is the whole request; uvicorn does not answer a bad one
            self.transport.write(b"".join(self.conn.data_to_send()) or BAD_HANDSHAKE_RESPONSE)
            self.transport.close()

    def keepalive_timeout(self) -> None:
        if self.read_paused or self._last_data_at >= self.ping_sent_at:  # the pong comes behind other data
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self._abort_later()

    def eof_received(self) -> None:
        self._abort_later()  # asyncio closes the transport after this

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self._abort_later()

    def shutdown(self) -> None:
        if not self.transport.is_closing():  # closing it twice raises in uvicorn
            super().shutdown()
        self._abort_later()

    def _abort_later(self) -> None:
        """A closed transport would wait without limit for its client to read the rest."""
        if not self.disconnected:
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
