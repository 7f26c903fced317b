"""Many readers that return at once: SSE streams of quiet threads, t0 and on, which are open when their API ends. When
another one answers at the same port, all return, and each tries again until it is served.

config: port, streams, seconds (limit). Answer: seconds (until the last one is open again), missing, errors (answers
other than 200).
"""

import asyncio
import contextlib
import functools
import time
from typing import Any

from bench.clients.script import Go, play

RETRY_SECONDS = 0.05
MAX_OPENING = 50  # connections at once, before the API ends
EVENT = b"event: "


class Stream(asyncio.Protocol):
    """Open when its thread's first event has arrived."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()
        self.status = b""

    def data_received(self, data: bytes) -> None:
        self.status = self.status or data[9:12]
        if EVENT in data:
            self.opened.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()


def _same(stream: Stream) -> Stream:
    return stream


class Reader:
    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._request = b"GET /threads/t%d/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % number
        self.errors = 0
        self.served = False

    async def open(self) -> Stream:
        while True:
            stream = Stream()
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                transport, _ = await loop.create_connection(functools.partial(_same, stream), "127.0.0.1", self._port)
                transport.write(self._request)
                waits = [asyncio.create_task(event.wait()) for event in (stream.opened, stream.ended)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                if stream.opened.is_set():
                    return stream
                self.errors += stream.status not in (b"", b"200")
            await asyncio.sleep(RETRY_SECONDS)

    async def return_from(self, stream: Stream) -> None:
        await stream.ended.wait()
        await self.open()
        self.served = True


async def come_back(config: Any, go: Go) -> Any:
    readers = [Reader(config["port"], number) for number in range(config["streams"])]
    streams = []
    for start in range(0, len(readers), MAX_OPENING):
        streams += await asyncio.gather(*(reader.open() for reader in readers[start : start + MAX_OPENING]))
    await go()
    began = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(config["seconds"]):
            returns = zip(readers, streams, strict=True)
            await asyncio.gather(*(reader.return_from(stream) for reader, stream in returns))
    return {
        "seconds": time.perf_counter() - began,
        "missing": sum(not reader.served for reader in readers),
        "errors": sum(reader.errors for reader in readers),
    }


if __name__ == "__main__":
    play(come_back)
