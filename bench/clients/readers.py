"""Many clients: each reads its message's SSE stream, or the WebSocket of its thread, to the end and checks every event;
some keep reconnecting.

A chunk is the times of its tokens (Unix nanoseconds, 19 digits each): several tokens may come in one event.

config: port, way (`stream`, the default, or `socket`), ids (one for each client), reconnecting (how many clients),
reconnect_seconds, from_ns (chunks emitted before are left out of the latencies), seconds (limit). Answer: tokens,
chunks (their events), missing, doubled, unfinished, reconnects, p50 and p99 in ms from emission to socket, first_ns
(first emission), last_ns (last arrival).
"""

import asyncio
import contextlib
import random
import re
import time
from typing import Any

from bench.clients.script import Go, play
from bench.clients.sockets import opening, pong
from bench.sample import percentile

FRAME = re.compile(  # of a socket
    rb'"id":(\d+),"message_id":"[-0-9a-f]+","seq":\d+,"event":"(\w+)",'
    rb'"data":(?:\{"type": ?"content", ?"chunk": ?"(\d+)")?.*?"created_at":"[^"]+"\}'
)
FRAME_END = b'Z"}'
EVENT_BLOCK = re.compile(rb'event: (\w+)\ndata: (?:\{"type": ?"content", ?"chunk": ?"(\d+)")?.*\nid: (\d+)\n')
TIME_DIGITS = 19
FINAL_EVENTS = (b"done", b"error", b"cancelled")


class Tally:
    def __init__(self, clients: int, from_ns: int) -> None:
        self.from_ns = from_ns
        self.open = clients
        self.tokens = self.chunks = self.missing = self.doubled = self.reconnects = 0
        self.first_ns = self.last_ns = 0
        self.taken: list[int] = []
        self.connected = asyncio.Semaphore(0)
        self.over = asyncio.Event()


class Reader:
    """One client: a cursor that outlives its connections."""

    def __init__(self, port: int, way: str, message_id: str, tally: Tally, reconnect_seconds: float | None) -> None:
        self._port = port
        self._way = way
        self._id = message_id
        self._tally = tally
        self._reconnect_seconds = reconnect_seconds
        self._seen = 0
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        if self._way == "socket":
            transport, _ = await loop.create_connection(lambda: Socket(self), "127.0.0.1", self._port)
            transport.write(opening(self._id, self._seen))
            return
        transport, _ = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        transport.write(
            b"GET /messages/%s/stream HTTP/1.1\r\nhost: 127.0.0.1\r\nlast-event-id: %d\r\n\r\n"
            % (self._id.encode(), self._seen)
        )

    def event(self, seq: int, kind: bytes, chunk: bytes | None, now: int) -> None:
        tally = self._tally
        if seq <= self._seen:
            tally.doubled += 1
            return
        tally.missing += seq - self._seen - 1
        self._seen = seq
        if chunk is not None:
            tally.chunks += 1
            tally.tokens += len(chunk) // TIME_DIGITS
            tally.last_ns = now
            for start in range(0, len(chunk), TIME_DIGITS):
                emitted = int(chunk[start : start + TIME_DIGITS])
                tally.first_ns = min(tally.first_ns or emitted, emitted)
                if emitted >= tally.from_ns:
                    tally.taken.append(now - emitted)
        elif kind in FINAL_EVENTS:
            self._over = True
            tally.open -= 1
            if not tally.open:
                tally.over.set()

    def lost(self) -> None:
        """The connection was lost: reconnect with the last id, unless the stream is over."""
        if not self._over:
            self._tally.reconnects += 1
            task = asyncio.create_task(self.connect())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def opened(self, transport: asyncio.Transport) -> None:
        """The answer has begun. A reconnecting client starts its clock only now: to leave earlier would add load."""
        self._tally.connected.release()
        if self._reconnect_seconds:
            wait = self._reconnect_seconds * random.uniform(0.75, 1.25)
            asyncio.get_running_loop().call_later(wait, self._leave, transport)

    def _leave(self, transport: asyncio.Transport) -> None:
        if not self._over:
            transport.abort()


class Connection(asyncio.Protocol):
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rest = b""
        self._opened = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        if not self._opened:
            self._opened = True
            self._reader.opened(self._transport)
        self._read(self._rest + data, now)

    def _read(self, data: bytes, now: int) -> None:
        end = data.rfind(b"\n\n")  # the rest is incomplete
        if end < 0:
            self._rest = data
            return
        self._rest = data[end + 2 :]
        for found in EVENT_BLOCK.finditer(data, 0, end + 1):
            self._reader.event(int(found[3]), found[1], found[2], now)

    def connection_lost(self, error: Exception | None) -> None:
        self._reader.lost()


class Socket(Connection):
    """The same over the socket of a thread that has the message's id."""

    def _read(self, data: bytes, now: int) -> None:
        if answer := pong(data):
            self._transport.write(answer)
        end = data.rfind(FRAME_END)
        if end < 0:
            self._rest = data
            return
        self._rest = data[end + len(FRAME_END) :]
        for found in FRAME.finditer(data, 0, end + len(FRAME_END)):
            self._reader.event(int(found[1]), found[2], found[3], now)


async def read(config: Any, go: Go) -> Any:
    ids = config["ids"]
    tally = Tally(len(ids), config["from_ns"])
    for n, message_id in enumerate(ids):
        again = config["reconnect_seconds"] if n < config["reconnecting"] else None
        await Reader(config["port"], config.get("way", "stream"), message_id, tally, again).connect()
        if n >= 50:
            await tally.connected.acquire()  # at most 50 connections are opened at once
    await go()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(tally.over.wait(), config["seconds"])
    taken = sorted(tally.taken) or [0]
    return {
        "tokens": tally.tokens,
        "chunks": tally.chunks,
        "missing": tally.missing,
        "doubled": tally.doubled,
        "unfinished": tally.open,
        "reconnects": tally.reconnects,
        "p50": percentile(taken, 0.5) / 1e6,
        "p99": percentile(taken, 0.99) / 1e6,
        "first_ns": tally.first_ns,
        "last_ns": tally.last_ns,
    }


if __name__ == "__main__":
    play(read)
