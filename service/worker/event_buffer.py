"""The events of one attempt on their way to the log: numbered here, sent in order, one append in flight."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

from service import telemetry
from service.leases.model import Append, Appended, Claim, EventToAppend
from service.worker.outcome import StopReason

HIGH_WATER_CHARS = 1_000_000  # of unsent data, at which emitters wait
APPEND_CHARS = 256_000
APPEND_EVENTS = 500


class AppendWriter(Protocol):
    def append(self, append: Append) -> Awaitable[Appended]: ...


class Stoppable(Protocol):
    def stop(self, reason: StopReason | Exception) -> None: ...


class EventBuffer:
    """Stops the attempt if the answer to an append says `lost` or `cancelled`, or if an append fails."""

    def __init__(self, claim: Claim, writer: AppendWriter, attempt: Stoppable) -> None:
        self._claim = claim
        self._writer = writer
        self._attempt: Stoppable | None = attempt
        self._next_seq = claim.last_seq + 1
        self._unsent: deque[EventToAppend] = deque()
        self._unsent_chars = 0
        self._room = asyncio.Event()
        self._room.set()
        self._sender: asyncio.Task[None] | None = None
        self._saves: deque[tuple[int, asyncio.Future[None]]] = deque()  # by seq: calls of `save` that wait
        self._closed = False
        self._log_unwritable = False
        self._began_at = time.monotonic()
        self._has_chunk = False

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
            self._room.clear()
            await self._room.wait()

    async def save(self, event: EventToAppend) -> None:
        """Put an event, and wait until it is in the log. Raises CancelledError if the log can no longer be written."""
        if self._closed or self._log_unwritable:
            await asyncio.sleep(0)
            raise asyncio.CancelledError
        saved = asyncio.get_running_loop().create_future()
        self._saves.append((self._next_seq + len(self._unsent), saved))
        await self.put(event)
        await saved

    async def close(self) -> tuple[int, list[EventToAppend]]:
        """Accept no more events; wait for the append in flight; returns the seq of the first unsent event, and the
        unsent events."""
        self._closed = True
        self._room.set()
        self._cancel_saves()
        if self._sender is not None:
            await asyncio.wait({self._sender})
        self._attempt = None  # neither keeps the other alive
        # A step whose sends are not committed must not get into the log: the next attempt would not send them.
        return self._next_seq, [event for event in self._unsent if not event.sends]

    async def _send(self) -> None:
        try:
            while self._unsent and not self._closed:
                events = self._next_events()
                answer = await self._writer.append(
                    Append(self._claim.message_id, self._claim.lease, self._next_seq, events, self._claim.thread)
                )
                if answer.status != "ok":
                    self._stop_writing("lost")
                    return
                self._mark_sent(events)
                if answer.cancel_requested:
                    self._stop("cancelled")
        except Exception as error:
            self._stop_writing(error)
        finally:
            self._sender = None

    def _mark_sent(self, events: list[EventToAppend]) -> None:
        for event in events:
            self._unsent.popleft()
            self._unsent_chars -= len(event.data)
        self._next_seq += len(events)
        while self._saves and self._saves[0][0] < self._next_seq:
            _, saved = self._saves.popleft()
            if not saved.done():
                saved.set_result(None)
        if self._unsent_chars <= HIGH_WATER_CHARS:
            self._room.set()

    def _stop_writing(self, reason: StopReason | Exception) -> None:
        self._log_unwritable = True
        self._unsent.clear()
        self._room.set()
        self._cancel_saves()
        self._stop(reason)

    def _stop(self, reason: StopReason | Exception) -> None:
        if self._attempt is not None:
            self._attempt.stop(reason)

    def _cancel_saves(self) -> None:
        while self._saves:
            self._saves.popleft()[1].cancel()

    def _next_events(self) -> list[EventToAppend]:
        """The events of the next append; an event with `sends` goes alone."""
        events: list[EventToAppend] = []
        size = 0
        for event in self._unsent:
            if events and (event.sends or events[0].sends):
                break
            if events and (len(events) == APPEND_EVENTS or size + len(event.data) > APPEND_CHARS):
                break
            events.append(event)
            size += len(event.data)
        return events
