"""Tabs of browsers that show the dashboard: each asks what a tab asks, at the moments when all tabs ask.

While messages change all the time, a tab reads a part of its view again at each multiple of so many seconds
(service/dashboard/static/board/refresh.js). A test compares VIEWS with what the pages ask. Answers are only counted.

config: port, tabs, view. It is `ready` once every tab has had its first answers, and asks until it is stopped. Answer:
nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bench.clients.answers import is_whole
from bench.clients.script import Go, play

EACH = ("health", 10)  # what a view asks that does not ask it more often
HOUR_SECONDS = 3600
# The requests, each so many seconds. Of `from` and `to` the times stand in `_path`.
VIEWS: Mapping[str, Sequence[tuple[str, int]]] = {
    "overview": (("health", 5), ("queues?limit=1000", 5), ("workers", 5), ("stats?from&to", 5)),
    "messages": (("messages?limit=50", 3), EACH),
}


class Tab(asyncio.Protocol):
    """A keep-alive connection that asks one thing after the other."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._answer = b""
        self._is_open = False  # a request is
        self.idle = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, path: str) -> None:
        self._waiting.append(f"GET /{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        self.idle.clear()
        self._next()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not is_whole(self._answer):
            return
        if not self._answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"A tab was answered with {self._answer[:200]!r}.")
        self._answer, self._is_open = b"", False
        self._next()

    def _next(self) -> None:
        if not self._is_open and self._waiting:
            self._is_open = True
            self._transport.write(self._waiting.pop(0))
        elif not self._is_open:
            self.idle.set()


class Stream(asyncio.Protocol):
    """The stream of changes, which wakes nothing here: while all changes, each moment is one to ask at."""

    def connection_made(self, transport: Any) -> None:
        transport.write(b"GET /changes HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")


async def show(config: Any, go: Go) -> Any:
    loop = asyncio.get_running_loop()
    view = VIEWS[config["view"]]
    tabs = [(await loop.create_connection(Tab, "127.0.0.1", config["port"]))[1] for _ in range(config["tabs"])]
    for _ in tabs:  # as if each tab were the only one of its browser
        await loop.create_connection(Stream, "127.0.0.1", config["port"])
    for tab in tabs:
        for path, seconds in view:
            tab.ask(_path(path, seconds))
    await asyncio.gather(*(tab.idle.wait() for tab in tabs))
    asking = [asyncio.create_task(_ask(tabs, path, seconds)) for path, seconds in view]
    await go()
    del asking
    return None


async def _ask(tabs: list[Tab], path: str, seconds: int) -> None:
    while True:
        await asyncio.sleep(seconds - time.time() % seconds)
        for tab in tabs:
            tab.ask(_path(path, seconds))


def _path(path: str, seconds: int) -> str:
    if path != "stats?from&to":
        return path
    to = (int(time.time()) // seconds + 1) * seconds
    return f"stats?from={_utc(to - HOUR_SECONDS)}&to={_utc(to)}"


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    play(show)
