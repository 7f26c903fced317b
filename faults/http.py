"""A cheap HTTP/1.1 client for loopback: the clients of a run share the machine with the service.

Raises OSError (TimeoutError among them) if there is no complete answer.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httptools
import msgspec

from faults.history import Seen

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 6.0
SILENCE_SECONDS = 6.0  # a stream that is silent for three KEEPALIVE_INTERVALs is dead


class Answer(msgspec.Struct):
    status: int
    body: bytes


class Calls:
    """Calls of a JSON API on keep-alive connections."""

    def __init__(self) -> None:
        self._idle: dict[int, list[_Call]] = defaultdict(list)  # by port

    async def ask(self, port: int, method: str, path: str, key: str | None = None, body: bytes = b"") -> Answer:
        """`key` is the Idempotency-Key."""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
        head += "content-type: application/json\r\n" if body else ""
        head += f"idempotency-key: {key}\r\n" if key else ""
        idle = self._idle[port]
        while idle and idle[-1].closed:
            idle.pop()
        call: _Call = idle.pop() if idle else await _connect(port, _Call)
        try:
            answer = await asyncio.wait_for(call.ask(f"{head}\r\n".encode() + body), ANSWER_SECONDS)
        except BaseException:
            call.transport.abort()
            raise
        idle.append(call)
        return answer

    def close(self) -> None:
        for idle in self._idle.values():
            for call in idle:
                call.transport.abort()


async def read(port: int, path: str, last_id: str | None, opened: Callable[[], None], take: "Take") -> Answer:
    """Open a stream and hand its events to `take`, until the stream ends or breaks, or `take` returns False.

    `opened` is called when the stream begins. The answer has a body only if it is not a stream.
    """
    head = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    head += f"last-event-id: {last_id}\r\n" if last_id is not None else ""
    stream: _Stream = await _connect(port, lambda: _Stream(opened, take))
    try:
        stream.say(f"{head}\r\n".encode())
        return await stream.ended()
    finally:
        stream.transport.abort()


Take = Callable[[Seen], bool]


async def _connect(port: int, make: Callable[[], Any]) -> Any:
    async with asyncio.timeout(CONNECT_SECONDS):
        _, protocol = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    return protocol


class _Answered(asyncio.Protocol):
    """A connection and its present answer; httptools calls the `on_...` methods."""

    def __init__(self) -> None:
        self.closed = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._over: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def say(self, request: bytes) -> None:
        try:
            self.transport.write(request)
        except RuntimeError as error:  # uvloop: the transport was closed, but connection_lost was not called yet
            raise ConnectionError("the connection was closed") from error

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._fail(error if isinstance(error, OSError) else ConnectionError("the connection was closed"))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.closed |= not self._parser.should_keep_alive()
        if not self._over.done():
            self._over.set_result(Answer(self._parser.get_status_code(), b"".join(self._body)))

    def _fail(self, error: Exception) -> None:
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # no caller may be waiting for it


class _Call(_Answered):
    async def ask(self, request: bytes) -> Answer:
        self._begin()
        self.say(request)
        return await self._over


class _Stream(_Answered):
    def __init__(self, opened: Callable[[], None], take: Take) -> None:
        super().__init__()
        self._opened, self._take = opened, take
        self._heard = asyncio.get_running_loop().time()
        self._status = 0
        self._rest = b""

    async def ended(self) -> Answer:
        loop = asyncio.get_running_loop()
        while not self._over.done():
            silence = loop.time() - self._heard
            if silence > SILENCE_SECONDS:
                raise TimeoutError("the stream is silent")
            await asyncio.wait({self._over}, timeout=SILENCE_SECONDS - silence + 0.05)
        return self._over.result()

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status == 200:
            self._opened()

    def on_body(self, body: bytes) -> None:
        if self._status != 200:
            super().on_body(body)
            return
        *blocks, self._rest = (self._rest + body).split(b"\n\n")
        for block in blocks:
            if not self._over.done() and (event := parse(block)) is not None and not self._take(event):
                self._over.set_result(Answer(200, b""))


def parse(block: bytes) -> Seen | None:
    """The event of a block of lines; None if it has no id and so is not part of the log."""
    fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
    if b"id" not in fields or b"data" not in fields:
        return None
    id, event = fields[b"id"].decode(), fields.get(b"event", b"").decode()
    return Seen(int(id.partition("-")[0]), event, msgspec.json.decode(fields[b"data"]), id)
