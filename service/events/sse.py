"""Server-sent events: one generator for each open stream.

A stream never answers 5xx. In trouble it tells the client when to reconnect, and closes; the client's cursor is all the
state there is.
"""

import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol
from uuid import UUID

import msgspec

from service.access.authenticator import Access
from service.access.principal import Principal
from service.events.feed import Feed
from service.events.lines import LinePosition
from service.events.model import OUT_OF_REACH, Entry, Log, Page, QueuePosition, QueueStop, is_out_of_reach
from service.events.thread_ids import format_id
from service.sse_frames import KEEPALIVE, RECONNECT, Silence, encode, guarded

log = logging.getLogger(__name__)

DELETED = b'event: cancelled\ndata: {"state": "cancelled", "deleted": true}\n\n'
FIRST_POSITION_SECONDS = 0.25  # that a message waits in its queue before its readers are told its position
POSITION_INTERVAL_SECONDS = 1.0  # between two such notices; all readers ask at the same moments

STOPS: dict[QueueStop, str] = {
    "delay": "Waiting until it is due.",
    "backoff": "Waiting for its next attempt.",
    "share": "Waiting for its tenant's share of the queue.",
    "paused": "The queue is paused.",
    "unclaimed": "No worker claims from this queue.",
    "no_agent": "No worker of this queue has its agent.",
    "tenant_suspended": "Its tenant is suspended.",
    "tenant_running": "Its tenant runs as many messages as it may.",
    "queue_concurrency": "Its queue runs as many messages as it may.",
    "locked": "An open transaction holds it or its thread.",
}


class Streams:
    """Creates the streams of one API process. `keepalive_interval` in seconds."""

    def __init__(self, feed: Feed, access: Access, *, keepalive_interval: float) -> None:
        self._feed = feed
        self._access = access
        self._keepalive_interval = keepalive_interval

    async def open_message(
        self, principal: Principal, message_id: UUID, read: Callable[[], Awaitable[Page]]
    ) -> AsyncIterator[bytes]:
        """The log of a message from its beginning. `read` reads its first page, in the call that finds out whether the
        principal sees the message. Raises what `read` raises."""
        view = MessageView(self._feed, message_id)
        stream = self._follow(principal, message_id, 0, view, read)
        first = await anext(stream)  # from here on a stream that is forgotten ends by itself
        return guarded("message", stream, first)

    def message(self, principal: Principal, message_id: UUID, after: int) -> AsyncIterator[bytes]:
        """The log of a message after seq `after`, up to the final event that is its last."""
        return guarded("message", self._follow(principal, message_id, after, MessageView(self._feed, message_id)))

    def thread(self, principal: Principal, thread: int, after: int, lost: int | None = None) -> AsyncIterator[bytes]:
        """The log of a thread after thread_pos `after`; it ends only when the thread is deleted. `lost`: the client's
        last id has this position, and the log does not have that event; the client is told so."""
        return guarded("thread", self._follow(principal, thread, after, ThreadView(lost)))

    async def _follow(
        self,
        principal: Principal,
        log_key: Log,
        after: int,
        view: "View",
        read: Callable[[], Awaitable[Page]] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """`read` reads the first page, which is sent even if it is empty."""
        silence = Silence(self._keepalive_interval)
        if view.opening:
            yield view.opening
        with self._feed.follow(log_key) as reader:
            if read is not None:
                part, after, over = _encode(await reader.first(read()), after, view)
                yield part
                if over:
                    return
            while not self._feed.closing:
                page = await reader.next(after, min(silence.seconds_left(), view.seconds_to_notice()))
                if reason := self._access.end_of(principal):
                    yield encode("unauthorized", _json({"message": reason}))
                    return
                if page is None:
                    yield DELETED
                    return
                page, foreign = _within_reach(page, principal)
                part, after, over = _encode(page, after, view)
                at_once = page.more or page.ends_before is not None
                del page  # a client may take long to read the part
                if part:
                    yield part
                    silence.reset()
                if foreign:
                    yield encode("unauthorized", _json({"message": OUT_OF_REACH}))
                    return
                if over:
                    return
                if at_once:
                    continue
                if view.seconds_to_notice() <= 0 and (notice := await view.notice()):
                    yield notice
                    silence.reset()
                if silence.is_too_long():
                    yield KEEPALIVE
        yield RECONNECT


class View(Protocol):
    """How the events of one kind of log look on the wire, and what its readers are told besides them."""

    opening: bytes

    def encode(self, entry: Entry) -> bytes:
        """The same for every reader of the log."""

    def see(self, last: Entry) -> None:
        """Its reader receives events up to this one."""

    def resume_at(self, log_end: int) -> int:
        """Where a reader goes on whose cursor is beyond the end of the log."""

    def seconds_to_notice(self) -> float:
        """Seconds until there may be a notice."""

    async def notice(self) -> bytes | None:
        """Called when it is time."""


class ThreadView:
    """Adds to each event's data which message it belongs to, and its seq. They come last, because JSON parsers keep the
    last of two equal keys."""

    __slots__ = ("opening",)

    def __init__(self, lost: int | None) -> None:
        # The client sees that the stream is open, even if the thread is silent.
        self.opening = KEEPALIVE if lost is None else KEEPALIVE + _gap(lost, 0)

    def resume_at(self, log_end: int) -> int:
        return 0  # the thread may have been deleted and begun again, so that no event is known to the client

    def encode(self, entry: Entry) -> bytes:
        data = entry.data[1:-1] if entry.data.startswith("{") else f'"data": {entry.data}'
        origin = f'"message_id": "{entry.message_id}", "seq": {entry.seq}'
        return encode(entry.type, f"{{{data}, {origin}}}" if data else f"{{{origin}}}", format_id(entry))

    def see(self, last: Entry) -> None:
        pass

    def seconds_to_notice(self) -> float:
        return math.inf

    async def notice(self) -> bytes | None:
        return None


class MessageView:
    """While the message is queued, its readers are told its position in the queue whenever that changes."""

    __slots__ = ("_feed", "_is_queued", "_message_id", "_next_notice", "_place", "_told")
    opening = b""

    def __init__(self, feed: Feed, message_id: UUID) -> None:
        self._feed = feed
        self._message_id = message_id
        self._is_queued = True
        self._place: LinePosition | None = None  # where the lines are followed from
        self._told: QueuePosition | None = None
        self._next_notice = _next_tick(time.monotonic() + FIRST_POSITION_SECONDS)

    def resume_at(self, log_end: int) -> int:
        # A failover lost the end of the log, and nothing else. The last event is sent again: it may be the final one,
        # which this client has not received and which ends the stream.
        return max(log_end - 1, 0)

    def encode(self, entry: Entry) -> bytes:
        return encode(entry.type, entry.data, entry.cursor)

    def see(self, last: Entry) -> None:
        self._is_queued = last.type in {"queued", "retry"}
        self._place = None

    def seconds_to_notice(self) -> float:
        return max(0.0, self._next_notice - time.monotonic()) if self._is_queued else math.inf

    async def notice(self) -> bytes | None:
        self._next_notice = _next_tick(time.monotonic())
        self._place = place = await self._feed.positions.follow(self._message_id, self._place)
        if place is None or place.told.state != "queued" or place.told == self._told:
            return None
        told = place.told
        self._told = told
        detail = _describe(told)
        return encode("waiting", _json({"state": told.state, "position": told.position, "message": detail}))


def _next_tick(after: float) -> float:
    return (math.floor(after / POSITION_INTERVAL_SECONDS) + 1) * POSITION_INTERVAL_SECONDS


def _describe(told: QueuePosition) -> str:
    position = told.position
    if told.stop is not None:
        return STOPS[told.stop]
    if position is None:
        return "Waiting until it is due."
    if position == 0:
        return "Next in the queue."
    return f"{position} message{'s' if position > 1 else ''} before this one."


def _within_reach(page: Page, principal: Principal) -> tuple[Page, bool]:
    """The page up to the first entry that the principal may not see, and whether there is one."""
    if principal.agents is None:
        return page, False
    for number, entry in enumerate(page.entries):
        if is_out_of_reach(entry, principal):
            return Page(page.entries[:number]), True
    return page, False


def _encode(page: Page, after: int, view: View) -> tuple[bytes, int, bool]:
    """A page on the wire, the reader's cursor after it, and whether the log is over. The page begins with a `gap` event
    if the events between the cursor and the first entry were deleted, or if the log ends before the cursor."""
    if page.ends_before is not None:
        resumes_at = view.resume_at(page.ends_before)
        return _gap(after, resumes_at), resumes_at, False
    if not page.entries:
        return b"", after, False
    first, last = page.entries[0], page.entries[-1]
    gap = _gap(after, first.cursor - 1) if first.cursor > after + 1 else b""
    if page.encoded is None:
        page.encoded = b"".join(map(view.encode, page.entries))
    view.see(last)
    return gap + page.encoded, last.cursor, last.last


def _gap(after: int, resumes_at: int) -> bytes:
    return encode("gap", _json({"after": after, "next": resumes_at + 1}))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
