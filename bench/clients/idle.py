"""Many SSE streams or WebSockets of quiet threads, t0 and on: they are opened, stay open, and a few of them receive an
event.

config: port, way (`stream` or `socket`), streams, events (how many will come, one for each of the first threads),
seconds (limit). Answer: arrived (Unix nanoseconds of each event, in their order).
"""

import asyncio
import contextlib
from time import time_ns
from typing import Any

from bench.clients.script import Go, play
from bench.clients.sockets import opening, pong

MAX_OPENING = 50  # connections at once
EVENTS = {"stream": b"event: ", "socket": b'"event":"queued"'}


class Arrivals:
    """The times of the events that come once all streams are open."""

    def __init__(self, expected: int) -> None:
        self.times: list[int] = []
        self.counting = False
        self.complete = asyncio.Event()
        self._expected = expected

    def add(self) -> None:
        if self.counting:
            self.times.append(time_ns())
            if len(self.times) == self._expected:
                self.complete.set()


class Stream(asyncio.Protocol):
    def __init__(self, arrivals: Arrivals, way: str) -> None:
        self._arrivals = arrivals
        self._way = way
        self.opened = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._way == "socket" and (answer := pong(data)):
            self._transport.write(answer)
        if EVENTS[self._way] in data:
            self._arrivals.add()
            self.opened.set()  # it has received what its thread had

    async def open(self, port: int, number: int, room: asyncio.Semaphore) -> None:
        async with room:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
            stream = b"GET /threads/t%d/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % number
            self._transport.write(stream if self._way == "stream" else opening(f"t{number}"))
            await self.opened.wait()


async def wait(config: Any, go: Go) -> Any:
    arrivals = Arrivals(config["events"])
    streams = [Stream(arrivals, config["way"]) for _ in range(config["streams"])]
    room = asyncio.Semaphore(MAX_OPENING)
    await asyncio.gather(*(stream.open(config["port"], n, room) for n, stream in enumerate(streams)))
    arrivals.counting = True
    await go()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(arrivals.complete.wait(), config["seconds"])
    return {"arrived": arrivals.times}


if __name__ == "__main__":
    play(wait)
