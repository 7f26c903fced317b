"""The events of one attempt on their way to the server: numbered here, sent in order, one call in flight."""

import asyncio
from collections import deque
from collections.abc import Callable

from service.agents.thread_bridge import require_loop
from treadle.worker.protocol import Claim, Event, LeaseLost, Leases, Stoppable

HIGH_WATER_BYTES = 1_000_000  # of unsent data, at which `emit` waits
CALL_BYTES = 256_000
CALL_EVENTS = 500


class EventBuffer:
    """Stops the attempt if the lease is lost, the message is cancelled, or the server refuses an event."""

    def __init__(self, leases: Leases, worker: str, claim: Claim, attempt: Stoppable) -> None:
        self._loop = asyncio.get_running_loop()
        self._leases = leases
        self._worker = worker
        self._claim = claim
        self._attempt = attempt
        self._next_seq = claim.last_seq + 1
        self._unsent: deque[Event] = deque()
        self._unsent_bytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()
        self._closed = False

    async def put(self, event: Event) -> int:
        """Buffer an event, and return its number; waits while too much is unsent. Raises CancelledError once the
        attempt is over, RuntimeError in another event loop: what sends would wait for ever in one that has ended."""
        require_loop(self._loop)
        if self._closed:
            await asyncio.sleep(0)
            raise asyncio.CancelledError
        self._unsent.append(event)
        self._unsent_bytes += event.size
        seq = self._next_seq + len(self._unsent) - 1
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        if self._unsent_bytes > HIGH_WATER_BYTES:
            await self._until(lambda: self._unsent_bytes <= HIGH_WATER_BYTES)
        return seq

    async def save(self, event: Event) -> None:
        """Put an event, and wait until it is in the log. Raises CancelledError if it cannot be written."""
        seq = await self.put(event)
        await self._until(lambda: self._next_seq > seq)

    async def close(self) -> tuple[int, list[Event]]:
        """Accept no more events; the number of the first unsent one, and all that are unsent: no more than one call
        takes."""
        await self._shut()
        if self._sender is not None:
            await asyncio.wait({self._sender})
        return self._next_seq, list(self._unsent)

    async def _until(self, done: Callable[[], bool]) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: done() or self._closed)
        if not done():
            raise asyncio.CancelledError

    async def _shut(self) -> None:
        self._closed = True
        async with self._moved:
            self._moved.notify_all()

    async def _send(self) -> None:
        try:
            while self._unsent and not (self._closed and self._fit_in_one_call()):
                events = self._next_events()
                answer = await self._leases.append(self._worker, self._claim, self._next_seq, events)
                for event in events:
                    self._unsent.popleft()
                    self._unsent_bytes -= event.size
                self._next_seq += len(events)
                async with self._moved:
                    self._moved.notify_all()
                if answer.cancel_requested:
                    self._attempt.stop("cancelled")
        except Exception as error:
            self._unsent.clear()
            await self._shut()
            self._attempt.stop("lost" if isinstance(error, LeaseLost) else error)
        finally:
            self._sender = None

    def _fit_in_one_call(self) -> bool:
        return len(self._unsent) <= CALL_EVENTS and self._unsent_bytes <= CALL_BYTES

    def _next_events(self) -> list[Event]:
        events: list[Event] = []
        size = 0
        for event in self._unsent:
            full = len(events) == CALL_EVENTS or size + event.size > CALL_BYTES or event.sends is not None
            if events and full:
                break
            events.append(event)
            size += event.size
            if event.sends is not None:
                break
        return events
