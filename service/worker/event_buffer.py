"""The events of one attempt on their way to the log: numbered here, sent in order, one append in flight."""

import asyncio
from collections import deque
from collections.abc import Callable
from uuid import UUID

from service.batching import Batcher
from service.leases.store import Append, Appended, EventToAppend

HIGH_WATER = 1_000_000  # bytes unsent at which emitters wait
CHUNK_BYTES = 256_000
CHUNK_EVENTS = 500


def _nobody(_: str | Exception) -> None:
    """Nobody is to be stopped any more."""


class Outbox:
    """`stop` is called with 'lost' or 'cancelled' when an append's answer says so, or with what went wrong."""

    def __init__(
        self,
        message_id: UUID,
        lease: UUID,
        next_seq: int,
        appends: Batcher[Append, Appended],
        stop: Callable[[str | Exception], None],
    ) -> None:
        self._message_id = message_id
        self._lease = lease
        self._next_seq = next_seq
        self._appends = appends
        self._stop = stop
        self._unsent: deque[EventToAppend] = deque()
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()
        self._sender: asyncio.Task[None] | None = None
        self._awaited: deque[tuple[int, asyncio.Future[None]]] = deque()  # seqs whose append somebody waits for
        self._closed = False
        self._abandoned = False

    async def put(self, event: EventToAppend) -> None:
        """Buffer an event; waits while too much is unsent.

        Drops it once nothing can be written any more; raises CancelledError once the attempt has ended, for an agent
        that did not heed its cancellation. Both let go of the loop: an agent may do nothing but emit.
        """
        if self._closed or self._abandoned:
            await asyncio.sleep(0)
            if self._closed:
                raise asyncio.CancelledError
            return
        self._unsent.append(event)
        self._bytes += len(event.data)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        if self._bytes > HIGH_WATER:
            self._room.clear()
            await self._room.wait()

    async def save(self, event: EventToAppend) -> None:
        """Put an event, and wait until it is in the log. Raises CancelledError once nothing can be written any more."""
        if self._closed or self._abandoned:
            await asyncio.sleep(0)
            raise asyncio.CancelledError
        saved = asyncio.get_running_loop().create_future()
        self._awaited.append((self._next_seq + len(self._unsent), saved))
        await self.put(event)
        await saved

    async def close(self) -> tuple[int, list[EventToAppend]]:
        """Take no more; wait for the append in flight; returns what is unsent and the seq of its first."""
        self._closed = True
        self._room.set()
        self._give_up()
        if self._sender is not None:
            await asyncio.wait({self._sender})
        self._stop = _nobody  # the attempt is over; and neither keeps the other alive
        # An event without what is sent with it would be remembered, and that never sent.
        return self._next_seq, [event for event in self._unsent if not event.sends]

    async def _send(self) -> None:
        try:
            while self._unsent and not self._closed:
                chunk = self._chunk()
                answer = await self._appends.submit(Append(self._message_id, self._lease, self._next_seq, chunk))
                if answer.status != "ok":
                    self._abandon("lost")
                    return
                for event in chunk:
                    self._unsent.popleft()
                    self._bytes -= len(event.data)
                self._next_seq += len(chunk)
                while self._awaited and self._awaited[0][0] < self._next_seq:
                    _, saved = self._awaited.popleft()
                    if not saved.done():
                        saved.set_result(None)
                if self._bytes <= HIGH_WATER:
                    self._room.set()
                if answer.cancel_requested:
                    self._stop("cancelled")
        except Exception as error:
            self._abandon(error)
        finally:
            self._sender = None

    def _abandon(self, reason: str | Exception) -> None:
        self._abandoned = True
        self._unsent.clear()
        self._room.set()
        self._give_up()
        self._stop(reason)

    def _give_up(self) -> None:
        """Nobody need wait for an append any more."""
        while self._awaited:
            self._awaited.popleft()[1].cancel()

    def _chunk(self) -> list[EventToAppend]:
        chunk: list[EventToAppend] = []
        size = 0
        for event in self._unsent:
            if chunk and (event.sends or chunk[0].sends):
                break  # what is sent goes with its event, and nothing else
            if chunk and (len(chunk) == CHUNK_EVENTS or size + len(event.data) > CHUNK_BYTES):
                break
            chunk.append(event)
            size += len(event.data)
        return chunk
