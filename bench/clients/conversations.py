"""Messages at a steady rate, some of them followed: POST, then its stream on the same keep-alive connection.

The client sends a message when it is due, whatever became of the ones before: at a random moment of its share of the
time, else the tokens of many agents would come at the same moments and share calls. A message of `tokens` tokens is
one for the agent `ticker`, which emits `token_rate` of them a second; without tokens it is one for `noop`.

config: port, per_second (messages), tokens, token_rate, follow (whether streams are read), seconds, count_from (of
them: from when tokens are counted), count_seconds, drain_seconds (limit for the last ones). Answer: sent, failed, lost
(tokens missing in streams), unfinished, read (tokens counted); accepted and first (first chunk), each p50 and p99 in ms
from the POST.
"""

import asyncio
import contextlib
import random
import time
from typing import Any

import msgspec

from bench.clients.readers import EVENT_BLOCK, FINAL_EVENTS, TIME_DIGITS
from bench.clients.script import Go, play
from bench.sample import BODY, percentile

STREAM_END = b"\r\n0\r\n\r\n"


class Tally:
    def __init__(self, tokens: int, *, follow: bool) -> None:
        self.tokens = tokens
        self.follow = follow
        self.count_from = self.count_to = 0.0  # time.perf_counter()
        self.open = self.failed = self.lost = self.read = 0
        self.accepted: list[float] = []  # milliseconds
        self.first: list[float] = []
        self.idle: list[Conversation] = []  # connections
        self.over = asyncio.Event()

    def ended(self, conversation: "Conversation") -> None:
        self.idle.append(conversation)
        self.open -= 1
        if not self.open:
            self.over.set()


class Conversation(asyncio.Protocol):
    """A connection: one message at a time."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rest = b""
        self._began = 0.0
        self._is_streaming = False
        self._tokens = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def begin(self, request: bytes) -> None:
        self._rest = b""
        self._is_streaming = False
        self._tokens = 0
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if self._is_streaming:
            self._read_stream(data)
            return
        self._rest = data
        head = data.find(b"\r\n\r\n")
        if head < 0 or b"}" not in data[head:]:
            return
        self._tally.accepted.append((time.perf_counter() - self._began) * 1000)
        if not data.startswith(b"HTTP/1.1 202"):
            self._tally.failed += 1
            self._tally.ended(self)
        elif self._tally.follow:
            message_id = data.partition(b'"message_id":"')[2][:36]
            self._rest = b""
            self._is_streaming = True
            self._transport.write(b"GET /messages/%s/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % message_id)
        else:
            self._tally.ended(self)

    def _read_stream(self, data: bytes) -> None:
        now = time.perf_counter()
        is_counted = self._tally.count_from <= now < self._tally.count_to
        end = data.rfind(b"\n\n")  # what follows is incomplete
        for event in EVENT_BLOCK.finditer(data, 0, max(end + 1, 0)):
            if event[2] is not None:
                if not self._tokens:
                    self._tally.first.append((now - self._began) * 1000)
                tokens = len(event[2]) // TIME_DIGITS
                self._tokens += tokens
                self._tally.read += tokens * is_counted
            elif event[1] in FINAL_EVENTS:
                self._tally.lost += self._tally.tokens - self._tokens
        self._rest = data[end + 2 :] if end >= 0 else data
        if data.endswith(STREAM_END):
            self._tally.ended(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self in self._tally.idle:
            self._tally.idle.remove(self)


async def converse(config: Any, go: Go) -> Any:
    tally = Tally(config["tokens"], follow=config["follow"])
    loop = asyncio.get_running_loop()
    await go()
    began, sent = time.perf_counter(), 0
    tally.count_from = began + config["count_from"]
    tally.count_to = tally.count_from + config["count_seconds"]
    quantity = int(config["per_second"] * config["seconds"])
    moments = random.Random(7)
    while sent < quantity:
        due = began + (sent + moments.random()) / config["per_second"]
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        if tally.idle:
            conversation = tally.idle.pop()
        else:
            _, conversation = await loop.create_connection(lambda: Conversation(tally), "127.0.0.1", config["port"])
        sent += 1
        tally.open += 1
        tally.over.clear()
        conversation.begin(_request(config))
    if tally.open:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(tally.over.wait(), config["drain_seconds"])
    answer: dict[str, float] = {"sent": sent, "failed": tally.failed, "unfinished": tally.open}
    answer |= {"lost": tally.lost, "read": tally.read}
    for name, taken in (("accepted", sorted(tally.accepted)), ("first", sorted(tally.first))):
        for part, share in (("p50", 0.5), ("p99", 0.99)):
            answer[f"{name}_{part}"] = percentile(taken, share) if taken else 0.0
    return answer


def _request(config: Any) -> bytes:
    message: dict[str, Any] = {"message": BODY, "agent": "noop"}
    if tokens := config["tokens"]:
        metadata = {"start_at": time.time(), "per_second": config["token_rate"], "chunks": tokens}
        message |= {"agent": "ticker", "metadata": metadata}
    body = msgspec.json.encode(message)
    return (
        b"POST /messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )


if __name__ == "__main__":
    play(converse)
