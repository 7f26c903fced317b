"""uvicorn's protocol for HTTP/1.1, with what it lacks: a limit on the size of a request's head and of its trailers, a
deadline for the arrival of a request, one for a client that does not read its answer, the body of a request that offers
another protocol, errors as problems, and answers that stay open without their request."""

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.open_answers import FORGET_REQUEST
from service.api.problems import encode_response
from service.api.write_deadline import WriteDeadline
from service.client_limits import ClientLimits, address_of
from service.errors import TooLarge, TooManyRequests
from service.open_files import ClientConnections

MAX_HEAD_BYTES = 65_536  # also of all that follows a head and is no body: trailers, extensions of chunks
ARRIVAL_SECONDS = 60.0  # for a whole request, from the opening of the connection or from its own first byte
COLON_AND_LINE_END = len(b": \r\n")
REQUEST_LINE_REST = len(b"  HTTP/1.1\r\n\r\n")  # beside the method and the target, with the empty line
client_connections = ClientConnections()  # of this process
UPGRADE_HEADERS = frozenset({b"connection", b"upgrade", b"http2-settings"})
ANSWERED: Any = {"method": "GET"}  # in place of a scope: uvicorn only looks whether the answer is one to HEAD


class _LargeHead(Exception):
    """Raised in a callback, so that the parser stops: the head or the trailers have more than MAX_HEAD_BYTES."""


class _NeverAwaited(asyncio.Event):
    """In place of the event of a request that no call waits for."""

    def set(self) -> None:
        pass


NEVER_AWAITED = _NeverAwaited()


class LimitedProtocol(HttpToolsProtocol):
    # Beyond thirty attributes, the dictionary of an object takes 1 KiB more: uvicorn has twenty-five.
    __slots__ = (
        "_body_bytes",
        "_counted_for",
        "_deadline",
        "_fed_bytes",
        "_head_bytes",
        "_held",
        "_in_head",
        "_in_request",
        "_leave",
        "_limits",
        "_max_body_bytes",
        "_open_cycle",
        "_write_deadline",
    )

    def __init__(self, *args: Any, limits: ClientLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._counted_for: str | None = None  # the address that has one connection more by this one
        self._max_body_bytes = self.config.ws_max_size
        self._body_bytes = 0
        self._fed_bytes = 0  # since the end of the last request, of the head, or of the last piece of the body
        self._head_bytes = 0  # of the lines of the head, or of the trailers, that are whole
        self._in_head = True
        self._in_request = False  # since its first byte
        self._deadline: asyncio.TimerHandle | None = None
        self._open_cycle: RequestResponseCycle | None = None  # whose answer stays open
        self._leave: Callable[[], None] | None = None  # called when its client disconnects
        self._held = b""  # arrived behind a request that waits for the end of the open answer

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._write_deadline = WriteDeadline(transport)
        self._deadline = self.loop.call_later(ARRIVAL_SECONDS, self._give_up)
        if not client_connections.has_room(transport.get_extra_info("socket").fileno()):
            self._refuse(503, "The API has as many connections as it may open: try again.")
            return
        address = address_of(self.client)
        try:
            self._limits.open_connection(address)
            self._counted_for = address
        except TooManyRequests as error:
            self._refuse(error.status, str(error), retry_after=error.retry_after)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        self._write_deadline.stop()
        self._stop_counting()
        super().connection_lost(exc)
        if self._open_cycle is not None:
            self._open_cycle.disconnected = True
            self._open_cycle = None
            if self._leave is not None:
                self._leave()

    def pause_writing(self) -> None:
        self._write_deadline.start()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._write_deadline.stop()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._open_cycle is not None and self.pipeline:
            self._held += data
            self._cancel_deadline()  # all that is held has arrived
            if len(self._held) > MAX_HEAD_BYTES:
                self.flow.pause_reading()
            return
        self._unset_keepalive_if_required()
        for start in range(0, len(data), MAX_HEAD_BYTES):
            if self._fed_bytes > MAX_HEAD_BYTES:
                self._refuse_head()
                return
            piece = data if len(data) <= MAX_HEAD_BYTES else data[start : start + MAX_HEAD_BYTES]
            self._fed_bytes += len(piece)
            self._feed(piece)
            if self.transport.is_closing() or self.transport.get_protocol() is not self:
                return
        if self._in_request and self._deadline is None:
            self._deadline = self.loop.call_later(ARRIVAL_SECONDS, self._give_up)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _LargeHead):
                self._refuse_head()
            else:
                self._refuse(400, "The request is not valid HTTP.")
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
            elif self._offers_other_protocol():
                self._read_without_offer(data[upgrade.args[0] :])

    def _offers_other_protocol(self) -> bool:
        """Whether the request offers another protocol than WebSocket, as the HTTP client of the JDK offers h2c."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def _read_without_offer(self, rest: bytes) -> None:
        """Read the request again as if it offered nothing: the parser takes none of its rest for a body."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name not in UPGRADE_HEADERS:
                head += [name, b": ", value, b"\r\n"]
            elif name == b"connection" and b"close" in value.lower():
                head.append(b"connection: close\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"".join([*head, b"\r\n", rest]))

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        self._in_request = True
        self._body_bytes = self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + COLON_AND_LINE_END
        if self._in_head:  # a trailer must not become a header
            super().on_header(name, value)
        elif self._head_bytes > MAX_HEAD_BYTES:
            raise _LargeHead

    def on_headers_complete(self) -> None:
        if self._offers_other_protocol():
            return
        if self._head_bytes + len(self.parser.get_method()) + len(self.url) + REQUEST_LINE_REST > MAX_HEAD_BYTES:
            raise _LargeHead
        self._fed_bytes = self._head_bytes = 0
        self._in_head = False
        self._take_host_of_target()
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            extensions: Any = {FORGET_REQUEST: functools.partial(self._forget_request, self.cycle)}
            self.scope["extensions"] = extensions
        self._read_on()

    def _take_host_of_target(self) -> None:
        """In `GET http://host/path` the target names the host, and the header Host does not count (RFC 9112, 3.2.2)."""
        _, separator, rest = self.url.partition(b"://")
        if separator and not self.url.startswith(b"/"):
            authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
            self.headers[:] = [header for header in self.headers if header[0] != b"host"] + [(b"host", authority)]

    def on_body(self, body: bytes) -> None:
        self._fed_bytes = 0
        self._body_bytes += len(body)
        if self._body_bytes > 2 * self._max_body_bytes:  # the refusal was sent long ago, and the client goes on
            if self.cycle is not None and self.cycle.response_complete:
                self.transport.close()  # a second refusal would answer the client's next request
            else:
                self._refuse(TooLarge.status, f"The body has more than {self._max_body_bytes} bytes (MAX_BODY_BYTES).")
            return
        if self.cycle is not self._open_cycle:  # else the answer does not depend on the rest of the body
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_other_protocol():
            return
        self._cancel_deadline()
        self._fed_bytes, self._in_head, self._in_request = 0, True, False
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        self._cancel_deadline()  # from here on another protocol has the connection
        self._stop_counting()
        super().handle_websocket_upgrade()

    # Answers that stay open

    def _forget_request(self, cycle: RequestResponseCycle, leave: Callable[[], None]) -> bool:
        """The rest of the answer needs nothing of its request. `leave` is called when the client disconnects. Returns
        whether it is still connected."""
        if cycle.disconnected:
            return False
        self._open_cycle, self._leave = cycle, leave
        self._read_on()
        cycle.scope.clear()  # type: ignore[attr-defined]  # it is a dict
        cycle.scope = ANSWERED
        cycle.message_event = NEVER_AWAITED
        if not self._in_request:
            self.scope, self.headers, self.url = ANSWERED, [], b""
        return True

    def _read_on(self) -> None:
        """uvicorn reads nothing more while a request waits for the answer before it. But the end of a connection that
        is not read is found by a failing write only, so an open answer would go on without its client."""
        if self._open_cycle is not None and self.pipeline:
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        self._open_cycle = self._leave = None
        super().on_response_complete()
        if self._held and not self.transport.is_closing():
            held, self._held = self._held, b""
            self.data_received(held)

    # Ends

    def _give_up(self) -> None:
        if self._in_request:
            self._refuse(408, f"The request did not arrive within {ARRIVAL_SECONDS:g} seconds.")
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(431, f"The head or the trailers of the request have more than {MAX_HEAD_BYTES} bytes.")

    def _refuse(self, status: int, detail: str, retry_after: int | None = None) -> None:
        """Answer without the application, and close. A response that has begun, of this request or of one before it, is
        cut off."""
        is_first = self._open_cycle is None and not self.pipeline
        if is_first and (self.cycle is None or self.cycle.response_complete or not self.cycle.response_started):
            self.transport.write(encode_response(status, detail, retry_after))
        self.transport.close()

    def _stop_counting(self) -> None:
        if self._counted_for is not None:
            self._limits.close_connection(self._counted_for)
            self._counted_for = None

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
