"""A TCP proxy on loopback that can be a bad network: it cuts, half-opens, delays, throttles and loses answers."""

import asyncio
import contextlib
import struct
from collections.abc import Callable

CHUNK = 65_536
Filter = Callable[[bytes], bytes]


class Proxy:
    """Passes bytes between whoever connects to `port` and 127.0.0.1:`target`.

    `delay` is in seconds for each chunk, `rate` in bytes a second for each connection and direction; `frozen` swallows
    what is sent and answers nobody, as a host does whose cable was pulled; `deaf` drops PostgreSQL's notifications.
    """

    def __init__(self, target: int, *, postgres: bool = False) -> None:
        self.target = target
        self.port = 0
        self.delay = 0.0
        self.rate: float | None = None
        self.frozen = False
        self.deaf = False
        self.cuts = 0
        self._postgres = postgres
        self._answers_to_lose = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection there is."""
        for writer in list(self._open):
            self._abort(writer)

    def freeze(self) -> None:
        """From now on nothing comes through, and nobody is told."""
        self.frozen = True

    def thaw(self) -> None:
        """The host is back, and knows nothing of the connections it had."""
        self.frozen = False
        self.cut()

    def lose_answers(self, count: int) -> None:
        """The next so many answers never arrive: what was asked is done, but the connection is reset instead."""
        self._answers_to_lose = count

    def heal(self) -> None:
        self.delay, self.rate, self.deaf, self._answers_to_lose = 0.0, None, False, 0
        if self.frozen:
            self.thaw()

    def _abort(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        self._open.discard(writer)
        with contextlib.suppress(Exception):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self.target, limit=CHUNK)
            self._open.add(there)
            keep = Deafener(self) if self._postgres else None
            pumps = {
                asyncio.create_task(self._pump(reader, there, None, answers=False)),
                asyncio.create_task(self._pump(back, writer, keep, answers=True)),
            }
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # nobody is there: the client is told by a reset; or we are closing
        finally:
            for end in (writer, there):
                if end is not None:
                    self._open.discard(end)
                    with contextlib.suppress(Exception):
                        end.close()
            self._tasks.discard(task)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, keep: Filter | None, *, answers: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                if self.frozen:
                    continue  # lost in the cable
                if answers and self._answers_to_lose:
                    self._answers_to_lose -= 1
                    self._abort(sink)
                    return
                sink.write(keep(data) if keep else data)
                await sink.drain()
            if self.frozen:
                await asyncio.Event().wait()  # the end of it is not heard of either, until the thaw resets it


class Deafener:
    """Cuts NotificationResponse messages ('A') out of what a PostgreSQL server sends, while the proxy is deaf.

    The format is a type byte and a length (PostgreSQL documentation, "Message Formats"); without TLS it holds from the
    first byte on.
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
