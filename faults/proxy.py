"""A TCP proxy on loopback that can be a bad network: it cuts, refuses, half-opens, delays, throttles and loses answers.

Each kind of trouble is ended only by its own opposite, so several may be active at once.
"""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import Any

CHUNK_BYTES = 65_536
LINGER_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a socket that is closed is reset


class Proxy:
    """Passes bytes between clients of `port` and 127.0.0.1:`target`.

    `delay` is in seconds for each chunk, `rate` in bytes a second for each connection and direction; `deaf` drops
    PostgreSQL's notifications; `cuts` counts connections that were reset.
    """

    def __init__(self, target: int, *, postgres: bool = False) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.rate: float | None = None
        self.deaf = False
        self.cuts = 0
        self.postgres = postgres
        self.answers_to_lose = 0
        self._freezers = self._refusers = 0
        self._links: set[Link] = set()
        self._place: socket.socket | None = None
        self._server: asyncio.Server | None = None

    @property
    def frozen(self) -> bool:
        return self._freezers > 0

    @property
    def has_answered_all(self) -> bool:
        """Whether each connection that is open has passed on an answer."""
        return all(link.is_answered for link in self._links)

    async def start(self) -> None:
        # Bound and never listening: while the proxy refuses, no other process gets the port.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", self.port))
        self.port = self._place.getsockname()[1]
        await self._listen()

    async def close(self) -> None:
        self._deny()
        if self._place is not None:
            self._place.close()
        await asyncio.gather(*(link.ended for link in list(self._links)), return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for link in list(self._links):
            link.cut()

    def freeze(self) -> None:
        """From now on drop all bytes and answer no client, like a host whose cable was pulled."""
        self._freezers += 1

    def thaw(self) -> None:
        """The host is back, and has forgotten its connections."""
        self._freezers -= 1
        if not self._freezers:
            self.cut()

    def refuse(self) -> None:
        """Reset every connection and refuse new ones, like a host without a listener."""
        self._refusers += 1
        self._deny()

    async def admit(self) -> None:
        self._refusers -= 1
        if not self._refusers:
            await self._listen()

    def lose_answers(self, count: int) -> None:
        """The next `count` answers never arrive: the server does what it was asked, but the connection is reset."""
        self.answers_to_lose = count

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._link, "127.0.0.1", self.port, reuse_port=True)

    def _deny(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def _link(self) -> asyncio.Protocol:
        link = Link(self)
        self._links.add(link)
        link.ended.add_done_callback(lambda _: self._links.discard(link))
        return link.client


class Link:
    """One client's connection, and the connection to the target."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.is_answered = False
        self.ended = asyncio.get_running_loop().create_future()
        self.client = Side(self, answers=False)
        self.server = Side(self, answers=True)
        self.client.other, self.server.other = self.server, self.client
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._connecting = asyncio.create_task(self._connect())

    def cut(self) -> None:
        self.proxy.cuts += 1
        self._end(self.client, self.server)

    def lose_answer(self) -> None:
        self.proxy.cuts += 1
        self._end(self.client)  # the server has answered, and sees an ordinary end

    def lost(self, _: object = None) -> None:
        """One side has closed; the other side is closed too, unless the proxy is frozen."""
        if not self.proxy.frozen:
            self._end()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.server, "127.0.0.1", self.proxy.target)
        except OSError:
            self._end(self.client)  # the target does not listen
        else:
            if self.ended.done():
                self.server.close(reset=True)

    def _end(self, *reset: "Side") -> None:
        if not self.ended.done():
            self.ended.set_result(None)
            if self._connecting is not None and not self._connecting.done():
                self._connecting.cancel()
            for side in (self.client, self.server):
                side.close(reset=side in reset)


class Side(asyncio.Protocol):
    """One of the two ends. Its bytes go to the `other` at once, or through a queue while the proxy is slow."""

    def __init__(self, link: Link, *, answers: bool) -> None:
        self.other: Side
        self.deafener: Deafener | None = None
        self._link, self._proxy, self._answers = link, link.proxy, answers
        self._transport: Any = None
        self._queue: deque[bytes] = deque()
        self._slow: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._link.ended.done():  # it was cut before it was made
            transport.abort()
        elif self._answers:
            self.other.catch_up()  # at once: what arrives next must not overtake it
        else:
            self._link.begin()

    def data_received(self, data: bytes) -> None:
        proxy = self._proxy
        if self.other._transport is None:
            self._queue.append(data)  # until the other side is connected
        elif self._slow is not None or proxy.delay or proxy.rate:
            self._queue.append(data)
            self._transport.pause_reading()
            if self._slow is None:
                self._slow = asyncio.create_task(self._pass_slowly())
        else:
            self._pass(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._slow is not None:
            self._slow.add_done_callback(self._link.lost)  # its last bytes are still in the queue
        else:
            self._link.lost()

    def pause_writing(self) -> None:
        if self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.resume_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def catch_up(self) -> None:
        early, self._queue = self._queue, deque()
        for data in early:
            self.data_received(data)

    def close(self, *, reset: bool) -> None:
        if self._slow is not None:
            self._slow.cancel()
        if self._transport is None or self._transport.is_closing():
            return
        if reset:
            with contextlib.suppress(OSError):
                self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self._transport.abort()
        else:
            self._transport.close()

    def _pass(self, data: bytes) -> None:
        proxy, other = self._proxy, self.other
        if proxy.frozen:
            return  # the bytes are lost
        if self._answers:
            if proxy.answers_to_lose:
                proxy.answers_to_lose -= 1
                self._link.lose_answer()
                return
            self._link.is_answered = True
            if self.deafener is not None:
                data = self.deafener(data)
        elif proxy.postgres and other.deafener is None and b"LISTEN" in data:
            other.deafener = Deafener(proxy)  # the answers so far are complete, so a message begins next
        other._transport.write(data)

    async def _pass_slowly(self) -> None:
        while self._queue:
            data = self._queue.popleft()
            for start in range(0, len(data), CHUNK_BYTES):
                part = data[start : start + CHUNK_BYTES]
                await asyncio.sleep(self._proxy.delay + (len(part) / self._proxy.rate if self._proxy.rate else 0))
                self._pass(part)
            if not self._queue:
                self.resume_reading()
        self._slow = None


class Deafener:
    """Cuts NotificationResponse messages ('A') out of what a PostgreSQL server sends, while the proxy is deaf.

    The format is a type byte and a length (PostgreSQL documentation, "Message Formats"); without TLS it holds from the
    first message after the connection's start on.
    """

    HEAD = struct.Struct("!cI")

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._rest = b""

    def __call__(self, data: bytes) -> bytes:
        data = self._rest + data
        kept = []
        start = 0
        while len(data) - start >= self.HEAD.size:
            kind, length = self.HEAD.unpack_from(data, start)
            end = start + 1 + length
            if end > len(data):
                break
            if kind != b"A" or not self._proxy.deaf:
                kept.append(data[start:end])
            start = end
        self._rest = data[start:]
        return b"".join(kept)
