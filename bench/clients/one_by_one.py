"""One message at a time on an idle system: POST, then its stream on the same keep-alive connection.

config: port, messages, warmup, pause (seconds between two), body. Answer: milliseconds from the POST's first byte, for
each message: accepted (the POST's answer), first (the first chunk), done.
"""

import random
import socket
import time
from typing import Any

from bench.clients.script import Go, play

TIMEOUT_SECONDS = 20.0


class Conversation:
    def __init__(self, port: int, body: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._post = (
            b"POST /messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )

    def once(self) -> tuple[float, float, float]:
        began = time.perf_counter()
        self._socket.sendall(self._post)
        answer, accepted = self._until(b"}")
        if not answer.startswith(b"HTTP/1.1 202"):
            raise RuntimeError(f"the API answered {answer[:200]!r}")
        message_id = answer.partition(b'"message_id":"')[2][:36]
        self._socket.sendall(b"GET /messages/%s/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % message_id)
        stream, first = self._until(b"event: chunk")
        done = first
        if b"event: done" not in stream:
            stream, done = self._until(b"event: done", stream)
        if not stream.endswith(b"\r\n0\r\n\r\n"):
            self._until(b"\r\n0\r\n\r\n", stream)
        return (accepted - began) * 1000, (first - began) * 1000, (done - began) * 1000

    def _until(self, mark: bytes, seen: bytes = b"") -> tuple[bytes, float]:
        """Read until `mark` has arrived; returns all bytes and the time of its arrival."""
        while mark not in seen:
            data = self._socket.recv(65536)
            if not data:
                raise RuntimeError(f"the API closed the connection after {seen[-200:]!r}")
            seen += data
        return seen, time.perf_counter()


async def talk(config: Any, go: Go) -> Any:
    conversation = Conversation(config["port"], config["body"].encode())
    for _ in range(config["warmup"]):
        conversation.once()
    await go()
    taken = []
    for _ in range(config["messages"]):
        time.sleep(config["pause"] * random.uniform(0.5, 1.5))  # noqa: ASYNC251  # nothing else runs on this loop
        taken.append(conversation.once())
    return dict(zip(("accepted", "first", "done"), zip(*taken, strict=True), strict=True))


if __name__ == "__main__":
    play(talk)
