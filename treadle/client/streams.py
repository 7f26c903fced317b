"""Streams that resume: a reader goes on after the last event that it received, on whichever server answers."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from uuid import UUID

import httpx2
import msgspec

from treadle.client.connection import CONNECT_SECONDS, Connection, segment
from treadle.client.errors import TooManyRequests, TreadleError, Unauthorized, Unavailable
from treadle.client.model import Event
from treadle.client.repeats import backoff, error_of

SILENCE_SECONDS = 60.0  # The server writes a comment every 15 seconds, so the connection is dead after this time.
MAX_EVENT_BYTES = 64_000_000
FINAL_TYPES = frozenset({"done", "error", "cancelled"})


class _Cursor:
    """Where a reader is in a log."""

    def __init__(self, after: str | int | None) -> None:
        self.last_id = "" if after is None else str(after)
        self.is_over = False
        self._last_type = ""
        self._failures = 0
        self._advice = 0.0

    @property
    def headers(self) -> dict[str, str]:
        return {"Last-Event-ID": self.last_id} if self.last_id else {}

    def take(self, sent: httpx2.ServerSentEvent) -> Event | None:
        """The event; None for an instruction to come back later. Raises Unauthorized."""
        if sent.retry is not None:
            self._advice = sent.retry / 1000
        if not sent.data:
            self._last_type = ""  # the server closes the stream, and its log goes on
            return None
        self._failures = 0
        data = msgspec.json.decode(sent.data)
        if sent.event == "unauthorized":
            raise Unauthorized(401, str(data["message"]))
        self._last_type = sent.event
        is_stored = bool(sent.id) and sent.id != self.last_id
        self.last_id = sent.id or self.last_id
        return Event(sent.id if is_stored else None, sent.event, data)

    def end(self) -> None:
        """The server has closed the stream."""
        self.is_over = self._last_type in FINAL_TYPES

    def fail(self) -> None:
        """The connection broke, or the server could not answer."""
        self._failures += 1

    def delay(self) -> float:
        """Seconds until the reader connects again."""
        return max(self._advice, backoff(self._failures) if self._failures else 0.0)


class Streams(Connection):
    async def stream(self, message_id: UUID | str, *, after: int | str | None = None) -> AsyncGenerator[Event, None]:
        """The events of a message, those after the id `after` (default: all), up to the one with which it is over.

        The stream resumes by itself for as long as it takes. Close it (contextlib.aclosing) if you leave it early.
        Raises NotFound, Unauthorized or Forbidden.
        """
        async with contextlib.aclosing(self._read(f"/messages/{segment(message_id)}/stream", after)) as events:
            async for event in events:
                yield event

    async def stream_thread(self, thread_id: str, *, after: str | None = None) -> AsyncGenerator[Event, None]:
        """The events of all messages of a thread, those after the id `after` (default: all).

        It ends only when the thread is deleted, with `cancelled` and `deleted`. An event `gap` says that events were
        deleted, or that the id is of another log. Raises NotFound, Unauthorized or Forbidden.
        """
        async with contextlib.aclosing(self._read(f"/threads/{segment(thread_id)}/stream", after)) as events:
            async for event in events:
                yield event

    async def _read(self, path: str, after: int | str | None) -> AsyncGenerator[Event, None]:
        cursor = _Cursor(after)
        timeout = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        while not cursor.is_over:
            try:
                async with self._http.stream("GET", path, headers=cursor.headers, timeout=timeout) as answer:
                    if answer.status_code == 204:
                        return
                    if not answer.is_success:
                        await answer.aread()
                        _check(error_of(answer))
                        cursor.fail()
                    else:
                        async for sent in httpx2.EventSource(answer, MAX_EVENT_BYTES):
                            if (event := cursor.take(sent)) is not None:
                                yield event
                        cursor.end()
            except httpx2.TransportError:
                cursor.fail()
            if not cursor.is_over:
                await asyncio.sleep(cursor.delay())


def _check(error: TreadleError) -> None:
    """Raise the error if the stream cannot be opened later, either."""
    if not isinstance(error, Unavailable | TooManyRequests):
        raise error
