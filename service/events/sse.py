"""Server-sent events: one generator for each open stream.

A stream route never answers 5xx: in trouble a stream says when to come back, and closes; the client's cursor is all the
state.
"""

import logging
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from uuid import UUID

import msgspec

from service.errors import TreadleError
from service.events.feed import Feed
from service.events.model import Entry
from service.events.store import is_full
from service.waiting import wait_for

log = logging.getLogger(__name__)

HEADERS = {
    # Caches and proxies must neither keep, compress nor collect a stream.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
MEDIA_TYPE = "text/event-stream"
COME_BACK = b"retry: 1000\n\n"
KEEPALIVE = b": keepalive\n\n"
WAITING_AFTER = 0.25  # seconds in the queue before a reader is told its position
WAITING_EVERY = 1.0  # seconds, at least, between one such telling and the next

_LINE_ENDS = re.compile("[\x85\u2028\u2029]")  # to JSON and SSE ordinary characters, but not to every client


def encode(event: str, data: str, position: int | None = None) -> bytes:
    """One event on the wire; `data` is JSON text on one line."""
    head = f"id: {position}\n" if position is not None else ""
    if not data.isascii():
        data = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", data)
    return f"{head}event: {event}\ndata: {data}\n\n".encode()


class Streams:
    """Makes the streams of one API process. Intervals in seconds."""

    def __init__(self, feed: Feed, *, poll_interval: float, keepalive_interval: float) -> None:
        self._feed = feed
        self._poll = poll_interval
        self._keepalive = keepalive_interval

    def message(self, message_id: UUID, after: int) -> AsyncIterator[bytes]:
        """The log of a message from after seq `after` to the terminal event that is its last."""
        return self._guarded(self._message(message_id, after))

    def thread(self, thread: int, after: int) -> AsyncIterator[bytes]:
        """The log of a thread from after thread_pos `after`; it ends only with the thread."""
        return self._guarded(self._thread(thread, after))

    async def _guarded(self, stream: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        try:
            async for part in stream:
                yield part
        except TreadleError as error:
            log.log(error.log_level, "stream interrupted", extra={"error": str(error)})
            yield COME_BACK
        except Exception:
            log.exception("stream broke")
            yield COME_BACK
        finally:
            await stream.aclose()

    async def _message(self, message_id: UUID, after: int) -> AsyncGenerator[bytes, None]:
        waiting = _Waiting(self._feed, message_id)
        silence = _Silence(self._keepalive)
        with self._feed.subscribe(message_id) as wake:
            while not self._feed.closing:
                wake.clear()
                entries = await self._feed.read_message(message_id, after)
                if entries is None:
                    yield encode("cancelled", '{"state": "cancelled", "deleted": true}')
                    return
                if gap := _gap(entries, after):
                    yield gap
                if entries:
                    yield b"".join(encode(entry.type, entry.data, entry.position) for entry in entries)
                    after = entries[-1].position
                    silence.broken()
                    waiting.see(entries[-1].type)
                    if entries[-1].last:
                        return
                    if is_full(entries):
                        continue
                await wait_for(wake, min(self._poll, self._keepalive, waiting.pause))
                if told := await waiting.tell():
                    yield told
                    silence.broken()
                if silence.too_long():
                    yield KEEPALIVE
        yield COME_BACK

    async def _thread(self, thread: int, after: int) -> AsyncGenerator[bytes, None]:
        yield KEEPALIVE  # so that a client sees the stream open, however silent its thread is
        silence = _Silence(self._keepalive)
        with self._feed.subscribe(thread) as wake:
            while not self._feed.closing:
                wake.clear()
                entries = await self._feed.read_thread(thread, after)
                if entries is None:
                    yield encode("cancelled", '{"state": "cancelled", "deleted": true}')
                    return
                if gap := _gap(entries, after):
                    yield gap
                if entries:
                    yield b"".join(_of_thread(entry) for entry in entries)
                    after = entries[-1].position
                    silence.broken()
                    if is_full(entries):
                        continue
                await wait_for(wake, min(self._poll, self._keepalive))
                if silence.too_long():
                    yield KEEPALIVE
        yield COME_BACK


class _Silence:
    """Since when a stream has said nothing. By the clock: a stream may be woken often and yet have nothing to say."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.broken()

    def broken(self) -> None:
        self._since = time.monotonic()

    def too_long(self) -> bool:
        """Whether it is time for a comment; the silence begins anew if so."""
        if time.monotonic() - self._since < self._longest:
            return False
        self.broken()
        return True


class _Waiting:
    """Tells a reader its place in the queue: when it changes, and not of a message that runs."""

    def __init__(self, feed: Feed, message_id: UUID) -> None:
        self._feed = feed
        self._message_id = message_id
        self._queued = True
        self._told: tuple[str, int | None] | None = None
        self._next = time.monotonic() + WAITING_AFTER

    @property
    def pause(self) -> float:
        """Seconds until there may be something to tell."""
        return max(0.0, self._next - time.monotonic()) if self._queued else math.inf

    def see(self, event: str) -> None:
        self._queued = event in {"queued", "retry"}

    async def tell(self) -> bytes | None:
        if not self._queued or time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + WAITING_EVERY
        state, position = await self._feed.position(self._message_id)
        if state != "queued" or (state, position) == self._told:
            return None
        self._told = (state, position)
        return encode("waiting", _json({"state": state, "position": position, "message": _sentence(position)}))


def _sentence(position: int | None) -> str:
    if position is None:
        return "Waiting until it is due."
    if position == 0:
        return "Next in the queue."
    return f"{position} message{'s' if position > 1 else ''} before this one."


def _gap(entries: list[Entry], after: int) -> bytes | None:
    """What lies between the cursor and the start of the log was deleted: say so."""
    if entries and entries[0].position > after + 1:
        return encode("gap", _json({"after": after, "next": entries[0].position}))
    return None


def _of_thread(entry: Entry) -> bytes:
    """An event of a thread's stream: its data, with the message and seq it is of. They come last, for the last of two
    keys with one name counts."""
    data = entry.data[1:-1] if entry.data.startswith("{") else f'"data": {entry.data}'
    place = f'"message_id": "{entry.message_id}", "seq": {entry.seq}'
    return encode(entry.type, f"{{{data}, {place}}}" if data else f"{{{place}}}", entry.position)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
