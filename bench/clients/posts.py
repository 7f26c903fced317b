"""Many POSTs over keep-alive connections, as cheap as possible: requests are prepared, answers are only counted.

config: port, connections, requests, warmup, path, body (JSON text). Answer: seconds, failed, latencies in ms.
"""

import asyncio
import time
from typing import Any

from bench.clients.answers import is_whole
from bench.clients.script import Go, play
from bench.sample import percentile


class Round:
    """A number of requests, each sent by the next free connection."""

    def __init__(self, requests: int) -> None:
        self.left = requests
        self.open = requests
        self.failed = 0
        self.taken: list[float] = []
        self.over = asyncio.Event()


class Poster(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self._request = request
        self._answer = b""
        self._round: Round | None = None
        self._began = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def start(self, round: Round) -> None:
        self._round = round
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not is_whole(self._answer):
            return
        round = self._round
        assert round is not None
        round.taken.append(time.perf_counter() - self._began)
        round.failed += not self._answer.startswith(b"HTTP/1.1 202")
        self._answer = b""
        round.open -= 1
        if not round.open:
            round.over.set()
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._round is not None and self._round.open:
            self._round.failed += self._round.open
            self._round.over.set()

    def _next(self) -> None:
        assert self._round is not None
        if self._round.left > 0:
            self._round.left -= 1
            self._began = time.perf_counter()
            self._transport.write(self._request)


async def post(config: Any, go: Go) -> Any:
    body = config["body"].encode()
    request = (
        f"POST {config['path']} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    posters = [
        (await loop.create_connection(lambda: Poster(request), "127.0.0.1", config["port"]))[1]
        for _ in range(config["connections"])
    ]
    await _run(posters, config["warmup"])
    await go()
    began = time.perf_counter()
    round = await _run(posters, config["requests"])
    seconds = time.perf_counter() - began
    taken = sorted(round.taken) or [0.0]
    return {
        "seconds": seconds,
        "failed": round.failed,
        "p50": percentile(taken, 0.5) * 1000,
        "p99": percentile(taken, 0.99) * 1000,
    }


async def _run(posters: list[Poster], requests: int) -> Round:
    round = Round(requests)
    for poster in posters:
        poster.start(round)
    await round.over.wait()
    return round


if __name__ == "__main__":
    play(post)
