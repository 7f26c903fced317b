"""The events of one attempt on their way to the log: numbered here, sent in order, one append in flight.

Consecutive chunks that wait for the same append become one event. A chunk that nothing delays is an event of its own;
under load a text has fewer rows: after an append that took long, the attempt rests before the next one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import NamedTuple, Protocol

from service import telemetry
from service.leases.model import Append, Appended, Claim, EventToAppend
from service.worker.outcome import StopReason

HIGH_WATER_CHARS = 1_000_000  # of unsent data, at which emitters wait
APPEND_CHARS = 256_000
APPEND_EVENTS = 500
CHUNK_CHARS = 16_000  # of several chunks in one event: it fits into a live page (LIVE_PAGE_BYTES in events/pages)


class Part(NamedTuple):
    """Events to append, and how many of the buffered ones they are made of."""

    events: list[EventToAppend]
    made_of: int


class AppendWriter(Protocol):
    def append(self, append: Append) -> Awaitable[Appended]: ...

    def rest_after(self, seconds: float) -> float: ...


class Stoppable(Protocol):
    def stop(self, reason: StopReason | Exception) -> None: ...


class EventBuffer:
    """Stops the attempt if the answer to an append says `lost` or `cancelled`, or if an append fails.

    A buffered chunk has its text as JSON for data; the event is made when it goes to the log.
    """

    def __init__(
        self, claim: Claim, writer: AppendWriter, attempt: Stoppable, *, max_event_bytes: int = 4 * CHUNK_CHARS
    ) -> None:
        self._claim = claim
        self._writer = writer
        self._attempt: Stoppable | None = attempt
        self._next_seq = claim.last_seq + 1
        self._unsent: deque[EventToAppend] = deque()
        self._unsent_chars = 0
        self._room: asyncio.Event | None = None  # of emitters that wait, because too much is unsent
        self._sender: asyncio.Task[None] | None = None
        self._sent = 0  # so many of the events that were put are in the log
        self._in_flight: Part | None = None  # the append without an answer
        self._chunks = 0  # of the attempt, in the log
        self._chunk_chars = min(CHUNK_CHARS, max_event_bytes // 4)  # a character has up to four bytes
        # Calls of `save` that wait, each with the number of events up to its own.
        self._saves: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed = False
        self._log_unwritable = False
        self._began_at = time.monotonic()
        self._has_chunk = False
        self._rest_until = 0.0  # by the clock of the loop
        self._resting: asyncio.Future[None] | None = None

    async def put(self, event: EventToAppend) -> None:
        """Buffer an event; waits while too much is unsent.

        Drops the event if the log can no longer be written. Raises CancelledError if the attempt is over, for an agent
        that ignored its cancellation. Dropping and raising both yield to the loop first, so that an agent that only
        emits cannot block it.
        """
        if self._closed or self._log_unwritable:
            await asyncio.sleep(0)
            if self._closed:
                raise asyncio.CancelledError
            return
        self._unsent.append(event)
        self._unsent_chars += len(event.data)
        if not self._has_chunk and event.type == "chunk":
            self._has_chunk = True
            telemetry.first_chunk(work=self._claim, seconds=time.monotonic() - self._began_at)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        if self._unsent_chars > HIGH_WATER_CHARS:
            self._room = self._room or asyncio.Event()
            await self._room.wait()

    async def save(self, event: EventToAppend) -> None:
        """Put an event, and wait until it is in the log. Raises CancelledError if the log can no longer be written."""
        if self._closed or self._log_unwritable:
            await asyncio.sleep(0)
            raise asyncio.CancelledError
        saved = asyncio.get_running_loop().create_future()
        self._saves.append((self._sent + len(self._unsent) + 1, saved))
        self._end_rest()
        await self.put(event)
        await saved

    async def close(self) -> tuple[int, list[EventToAppend]]:
        """Accept no more events; wait for the append in flight; returns the seq of the first unsent event, and the
        unsent events."""
        self._closed = True
        if self._sender is None and not self._unsent and self._in_flight is None:  # the agent has written nothing more
            self._attempt = None
            return self._next_seq, []
        self._let_emitters_go()
        self._cancel_saves()
        self._end_rest()
        if self._sender is not None:
            await asyncio.wait({self._sender})
        self._attempt = None  # neither keeps the other alive
        # A step whose sends are not committed must not get into the log: the next attempt would not send them.
        # An append without an answer may be in the log: the same events are written again, which changes nothing.
        part = self._in_flight or Part([], 0)
        rest = [event for event in list(self._unsent)[part.made_of :] if not event.sends]
        chunks = self._chunks + _chunks_of(part)
        return self._next_seq, [event for event in part.events if not event.sends] + self._join(rest, chunks)

    async def _send(self) -> None:
        try:
            while await self._may_send():
                began = time.monotonic()
                part = self._in_flight = self._next_part()
                claim, first_seq, is_first = self._claim, self._next_seq, not self._sent
                answer = await self._writer.append(
                    Append(claim.message_id, claim.lease, first_seq, part.events, claim.thread, is_first)
                )
                if answer.status != "ok":
                    self._stop_writing("lost")
                    return
                self._in_flight = None
                rest = self._writer.rest_after(time.monotonic() - began)
                self._rest_until = asyncio.get_running_loop().time() + rest
                self._mark_sent(part)
                if answer.cancel_requested:
                    self._stop("cancelled")
        except Exception as error:
            self._stop_writing(error)
        finally:
            self._sender = None

    async def _may_send(self) -> bool:
        """Wait for the end of a rest; whether there is something to append then."""
        loop = asyncio.get_running_loop()
        if self._unsent and not self._saves and self._unsent_chars < CHUNK_CHARS and self._rest_until > loop.time():
            self._resting = loop.create_future()
            timer = loop.call_at(self._rest_until, self._end_rest)
            try:
                await self._resting
            finally:
                timer.cancel()
                self._resting = None
        return bool(self._unsent) and not self._closed

    def _end_rest(self) -> None:
        if self._resting is not None and not self._resting.done():
            self._resting.set_result(None)

    def _mark_sent(self, part: Part) -> None:
        for _ in range(part.made_of):
            self._unsent_chars -= len(self._unsent.popleft().data)
        self._sent += part.made_of
        self._next_seq += len(part.events)
        self._chunks += _chunks_of(part)
        while self._saves and self._saves[0][0] <= self._sent:
            _, saved = self._saves.popleft()
            if not saved.done():
                saved.set_result(None)
        if self._unsent_chars <= HIGH_WATER_CHARS:
            self._let_emitters_go()

    def _stop_writing(self, reason: StopReason | Exception) -> None:
        self._log_unwritable = True
        self._unsent.clear()
        self._in_flight = None
        self._let_emitters_go()
        self._cancel_saves()
        self._stop(reason)

    def _let_emitters_go(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None

    def _stop(self, reason: StopReason | Exception) -> None:
        if self._attempt is not None:
            self._attempt.stop(reason)

    def _cancel_saves(self) -> None:
        while self._saves:
            self._saves.popleft()[1].cancel()

    def _next_part(self) -> Part:
        """The next append; an event with `sends` goes alone."""
        taken: list[EventToAppend] = []
        size = 0
        for event in self._unsent:
            if taken and (event.sends or taken[0].sends):
                break
            if taken and (len(taken) == APPEND_EVENTS or size + len(event.data) > APPEND_CHARS):
                break
            taken.append(event)
            size += len(event.data)
        return Part(self._join(taken, self._chunks), len(taken))

    def _join(self, buffered: Iterable[EventToAppend], chunks: int) -> list[EventToAppend]:
        """The events as the log has them: consecutive chunks joined, and numbered from `chunks` on."""
        joined: list[EventToAppend] = []
        texts: list[str] = []  # of the chunks that become one event
        size = 0
        for event in buffered:
            if texts and (event.type != "chunk" or size + len(event.data) > self._chunk_chars):
                joined.append(_chunk(texts, chunks))
                texts, size, chunks = [], 0, chunks + 1
            if event.type == "chunk":
                texts.append(event.data)
                size += len(event.data)
            else:
                joined.append(event)
        if texts:
            joined.append(_chunk(texts, chunks))
        return joined


def _chunks_of(part: Part) -> int:
    return sum([event.type == "chunk" for event in part.events])


def _chunk(texts: list[str], index: int) -> EventToAppend:
    return EventToAppend("chunk", f'{{"type": "content", "chunk": {_join_texts(texts)}, "index": {index}}}')


def _join_texts(texts: list[str]) -> str:
    """JSON of the joined text. Each of the texts is whole JSON, so that no escape and no character is cut."""
    return texts[0] if len(texts) == 1 else f'"{"".join([text[1:-1] for text in texts])}"'
