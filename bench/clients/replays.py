"""Many readers that replay the log of one thread at once, from its first event.

config: port, thread, readers, events (how many each reads), seconds (limit). Answer: seconds (until the last one has
them), missing (readers without all of them), bytes (that all received).
"""

import asyncio
import contextlib
import time
from functools import partial
from typing import Any

from bench.clients.script import Go, play

MARK = b"\nid: "  # one in each event


class Reader(asyncio.Protocol):
    def __init__(self, events: int) -> None:
        self._left = events
        self._end = b""  # of what came before, in which a mark may have begun
        self.bytes = 0
        self.over = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        data = self._end + data
        self._left -= data.count(MARK)
        self._end = data[1 - len(MARK) :]
        if self._left <= 0 and not self.over.is_set():
            self.over.set()
            self._transport.abort()


async def replay(config: Any, go: Go) -> Any:
    loop = asyncio.get_running_loop()
    request = f"GET /threads/{config['thread']}/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()
    readers: list[Reader] = []
    await go()
    began = time.perf_counter()
    for _ in range(config["readers"]):
        transport, reader = await loop.create_connection(partial(Reader, config["events"]), "127.0.0.1", config["port"])
        transport.write(request)
        readers.append(reader)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(reader.over.wait() for reader in readers)), config["seconds"])
    return {
        "seconds": time.perf_counter() - began,
        "missing": sum(not reader.over.is_set() for reader in readers),
        "bytes": sum(reader.bytes for reader in readers),
    }


if __name__ == "__main__":
    play(replay)
