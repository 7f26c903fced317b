"""uvicorn's protocol for WebSocket, with what it lacks: a wait for clients that do not read, a limit on the number of
frames, and refused handshakes as problems."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import DATA_OPCODES, Frame
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from service.api.problems import encode_problem, encode_response
from service.api.write_deadline import limit_send_buffer
from service.errors import CAUSE_IN_LOG
from service.refusals import MEDIA_TYPE
from service.sockets.peer import FIRST_MESSAGE_LIMIT

LINGER_SECONDS = 3.0  # that a client gets to read the rest when its socket is closed
MAX_FRAMES_PER_SECOND = 10_000  # of one client: each costs the loop some microseconds, also an empty one
PIECE_BYTES = 16_384  # of a client's data that are read before its frames are counted
INVALID_TEXT, POLICY_VIOLATION = 1007, 1008  # close codes of RFC 6455
REFUSALS = {
    403: "There is no socket at this address.",
    500: f"The socket cannot be opened because of an error in the service; {CAUSE_IN_LOG}",
}


class SocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket whose `send` waits while more than 64 KiB are unsent. It pings every KEEPALIVE_INTERVAL and closes a
    socket from which nothing comes for as long; any data counts, not only a pong."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = self._handshake = _Handshake(max_size=self.config.ws_max_size, logger=self.logger)
        self.close_timeout = LINGER_SECONDS
        self._has_failed = False  # the rest of what the client sends is discarded
        self._last_data_at = 0.0
        self._frames_counted_from = 0.0
        self._frames = 0  # since then

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        limit_send_buffer(transport)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            extensions: Any = self.scope["extensions"]
            extensions[FIRST_MESSAGE_LIMIT] = self._handshake.limit_first_message

    def data_received(self, data: bytes) -> None:
        if self._has_failed:
            return
        self._last_data_at = self.loop.time()
        for start in range(0, len(data), PIECE_BYTES):
            self.conn.receive_data(data[start : start + PIECE_BYTES])
            if self._has_too_many_frames():
                self.conn.fail(POLICY_VIOLATION, f"more than {MAX_FRAMES_PER_SECOND} frames a second")
                self.handle_parser_exception()
                return
            if self.conn.parser_exc is not None:
                self.handle_parser_exception()
                return
            self.handle_events()
            if self.transport.is_closing():
                return
        if not self.handshake_initiated:  # the first data is the whole request; uvicorn does not answer a bad one
            rejected = b"".join(self.conn.data_to_send())
            self.transport.write(rejected or encode_response(400, "The WebSocket handshake is malformed."))
            self.transport.close()

    def _has_too_many_frames(self) -> bool:
        if self._last_data_at - self._frames_counted_from >= 1.0:
            self._frames_counted_from, self._frames = self._last_data_at, 0
        self._frames += len(self.conn.events)
        return self._frames > MAX_FRAMES_PER_SECOND

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:  # uvicorn logs it with its traceback
                self.conn.fail(INVALID_TEXT, "a text is not encoded in UTF-8")
                self.handle_parser_exception()
                return
        super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Reads on for a while: to close a transport with unread data resets it, and the client can lose the code."""
        if not self.handshake_complete:
            super().handle_parser_exception()
            return
        self._has_failed = self.close_sent = True
        close = self.conn.close_sent
        assert close is not None
        self.queue.put_nowait({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
        self.stop_keepalive()
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.read_paused = False
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    async def send(self, message: Any) -> None:
        if self._has_failed:
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True  # with a refusal; uvicorn would log an error

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


class _Handshake(ServerProtocol):
    """A refused handshake is answered with a problem, and the first message can have a limit of its own."""

    _later_limit: int | None = None  # of the messages after the first; None: that has no limit of its own

    def limit_first_message(self, size_bytes: int) -> None:
        self._later_limit, self.max_message_size = self.max_message_size, size_bytes

    def recv_frame(self, frame: Frame) -> None:
        super().recv_frame(frame)
        if self._later_limit is not None and frame.opcode in DATA_OPCODES and frame.fin:
            self._later_limit, self.max_message_size = None, self._later_limit

    def reject(self, status: HTTPStatus | int, text: str) -> Response:
        response = super().reject(status, text)
        reason = text.strip().partition("\n")[0].removesuffix(".")
        body = encode_problem(response.status_code, REFUSALS.get(response.status_code) or f"{reason}.")
        for name, value in (("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body)))):
            del response.headers[name]
            response.headers[name] = value
        response.body = body
        return response
