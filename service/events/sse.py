"""Server-sent events: one generator for each open stream.

A stream route never answers 5xx: in trouble a stream says when to come back, and closes; the client's cursor is all the
state.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from uuid import UUID

import msgspec

from service.errors import TreadleError
from service.events.feed import Feed
from service.events.model import Entry

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


def encode(event: str, data: str, position: int | None = None) -> bytes:
    """One event on the wire; `data` is JSON text on one line."""
    head = f"id: {position}\n" if position is not None else ""
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
            log.warning("stream interrupted", extra={"error": str(error)})
            yield COME_BACK
        finally:
            await stream.aclose()

    async def _message(self, message_id: UUID, after: int) -> AsyncGenerator[bytes, None]:
        waiting = _Waiting(self._feed, message_id)
        with self._feed.subscribe(message_id) as wake:
            silence = 0.0
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
                    after, silence = entries[-1].position, 0.0
                    waiting.see(entries[-1].type)
                    if entries[-1].last:
                        return
                    continue
                pause = min(self._poll, WAITING_AFTER if waiting.unseen else 1.0)
                if not await _woken(wake, pause):
                    silence += pause
                    if told := await waiting.tell():
                        yield told
                    if silence >= self._keepalive:
                        yield KEEPALIVE
                        silence = 0.0
        yield COME_BACK

    async def _thread(self, thread: int, after: int) -> AsyncGenerator[bytes, None]:
        yield KEEPALIVE  # so that a client sees the stream open, however silent its thread is
        with self._feed.subscribe(thread) as wake:
            silence = 0.0
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
                    after, silence = entries[-1].position, 0.0
                    continue
                if not await _woken(wake, self._poll):
                    silence += self._poll
                    if silence >= self._keepalive:
                        yield KEEPALIVE
                        silence = 0.0
        yield COME_BACK


class _Waiting:
    """Tells a reader its place in the queue: when it changes, and not of a message that runs."""

    def __init__(self, feed: Feed, message_id: UUID) -> None:
        self._feed = feed
        self._message_id = message_id
        self._queued = True
        self._told: tuple[str, int | None] | None = None

    @property
    def unseen(self) -> bool:
        return self._queued and self._told is None

    def see(self, event: str) -> None:
        self._queued = event in {"queued", "retry"}

    async def tell(self) -> bytes | None:
        if not self._queued:
            return None
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
    """An event of a thread's stream: its data, with the message and seq it is of."""
    head = f'{{"message_id": "{entry.message_id}", "seq": {entry.seq}'
    rest = entry.data[1:] if entry.data.startswith("{") else f'"data": {entry.data}}}'
    return encode(entry.type, head + ("" if rest == "}" else ", ") + rest, entry.position)


async def _woken(wake: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(wake.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
