"""One message at a time into one thread, which the client reads all the time: as a stream, or over a WebSocket that
also takes the messages. Or one streamed completion of OpenAI's API after the other.

config: port, way (`stream`, `socket` or `completions`), messages, warmup, pause (seconds between two), text, agent.
Answer: milliseconds from the message's first byte, for each message: first (the first chunk), done.
"""

import random
import socket
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from bench.clients.script import Go, play
from bench.clients.sockets import opening

TIMEOUT_SECONDS = 20.0


class Stream:
    """POSTs on one connection, and reads the stream of the thread on another."""

    chunk, done = b"event: chunk", b"event: done"

    def __init__(self, port: int, text: str, agent: str) -> None:
        body = msgspec.json.encode({"message": text, "agent": agent, "thread_id": "stream"})
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self._post = _request(b"POST /messages", head) + body
        self._posts = _connect(port)
        self.send()
        self.settle()  # the thread exists now
        self.reads = _connect(port)
        self.reads.sendall(_request(b"GET /threads/stream/stream"))

    def send(self) -> None:
        self._posts.sendall(self._post)

    def settle(self) -> None:
        """Read the answer to the POST."""
        self._posts.recv(65_536)


class Socket:
    """Sends and reads on one WebSocket."""

    chunk, done = b'"event":"chunk"', b'"event":"done"'

    def __init__(self, port: int, text: str, agent: str) -> None:
        payload = msgspec.json.encode({"type": "user_input", "text": text, "agent": agent})
        # One whole text, masked with zeros; the length in two bytes.
        self._frame = b"\x81\xfe" + len(payload).to_bytes(2) + bytes(4) + payload
        self.reads = _connect(port)
        self.reads.sendall(opening("socket"))
        _read_until(self.reads, b'"status":"open"')
        self.send()

    def send(self) -> None:
        self.reads.sendall(self._frame)

    def settle(self) -> None:
        pass


class Completions:
    """Asks for a streamed completion of OpenAI's API on one connection; each is a message without a thread."""

    chunk, done = b"hello", b"[DONE]"

    def __init__(self, port: int, text: str, agent: str) -> None:
        ask = {"model": agent, "stream": True, "messages": [{"role": "user", "content": text}]}
        body = msgspec.json.encode(ask)
        head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        self._post = _request(b"POST /v1/chat/completions", head) + body
        self.reads = _connect(port)
        self.send()

    def send(self) -> None:
        self.reads.sendall(self._post)

    def settle(self) -> None:
        pass


Way: TypeAlias = Stream | Socket | Completions
WAYS: dict[str, Callable[[int, str, str], Way]] = {"stream": Stream, "socket": Socket, "completions": Completions}


async def talk(config: Any, go: Go) -> Any:
    way = WAYS[config["way"]](config["port"], config["text"], config["agent"])
    _read_until(way.reads, way.done)
    for _ in range(config["warmup"]):
        _once(way)
    await go()
    taken = []
    for _ in range(config["messages"]):
        time.sleep(config["pause"] * random.uniform(0.5, 1.5))  # noqa: ASYNC251  # nothing else runs on this loop
        taken.append(_once(way))
    return dict(zip(("first", "done"), zip(*taken, strict=True), strict=True))


def _once(way: Way) -> tuple[float, float]:
    began = time.perf_counter()
    way.send()
    seen, first = _read_until(way.reads, way.chunk)
    done = first
    if way.done not in seen:
        _, done = _read_until(way.reads, way.done, seen)
    way.settle()
    return (first - began) * 1000, (done - began) * 1000


def _read_until(connection: socket.socket, mark: bytes, seen: bytes = b"") -> tuple[bytes, float]:
    """All bytes up to those that have the mark, and the time of its arrival."""
    while mark not in seen:
        data = connection.recv(65_536)
        if not data:
            raise RuntimeError(f"the API closed the connection after {seen[-200:]!r}")
        seen += data
    return seen, time.perf_counter()


def _request(line: bytes, headers: bytes = b"") -> bytes:
    return line + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n" + headers + b"\r\n"


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    play(talk)
