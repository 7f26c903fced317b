"""Wakes the readers of event logs and reads for them. A reader is a cursor, not a buffer.

A hint wakes the readers of the logs that it names. Each then reads on from its own cursor, and one query serves all
readers that are awake. A lost hint delays a reader by one poll interval at most.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeAlias
from uuid import UUID

from service.batching import Batcher
from service.db.notifier import EVERYTHING
from service.events.model import Cursor, Entry, Log, QueuePosition
from service.events.store import EventStore

Page: TypeAlias = list[Entry] | None

READ_BATCH_CURSORS = 500
POSITION_BATCH_MESSAGES = 200


class Feed:
    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._readers: defaultdict[Log, set[asyncio.Event]] = defaultdict(set)
        # Two batchers, so that readers of threads and readers of messages do not wait for each other's query.
        self._message_pages: Batcher[Cursor, Page] = Batcher(self._read_each_once, limit=READ_BATCH_CURSORS)
        self._thread_pages: Batcher[Cursor, Page] = Batcher(self._read_each_once, limit=READ_BATCH_CURSORS)
        self._queue_positions: Batcher[UUID, QueuePosition] = Batcher(
            self._read_queue_positions, limit=POSITION_BATCH_MESSAGES
        )
        self.closing = False

    @contextlib.contextmanager
    def subscribe(self, log: Log) -> Iterator[asyncio.Event]:
        """An asyncio.Event that is set whenever the log may have new events."""
        wake = asyncio.Event()
        self._readers[log].add(wake)
        try:
            yield wake
        finally:
            self._readers[log].discard(wake)
            if not self._readers[log]:
                del self._readers[log]

    async def read(self, log: Log, after: int) -> Page:
        """The next events after `after`; None if the message or the thread does not exist."""
        pages = self._message_pages if isinstance(log, UUID) else self._thread_pages
        return await pages.submit(Cursor(log, after))

    async def queue_position(self, message_id: UUID) -> QueuePosition:
        return await self._queue_positions.submit(message_id)

    def receive(self, payload: str) -> None:
        """Wake the readers that a hint on treadle_events names."""
        if payload == EVERYTHING:
            self.wake_all()
            return
        for item in payload.split(","):
            message_id, _, thread = item.partition(":")
            with contextlib.suppress(ValueError):
                self._wake(UUID(message_id))
                if thread:
                    self._wake(int(thread))

    def wake_all(self) -> None:
        for log in list(self._readers):
            self._wake(log)

    def close(self) -> None:
        """End every stream; its client reconnects to another process."""
        self.closing = True
        self.wake_all()

    def _wake(self, log: Log) -> None:
        for wake in list(self._readers.get(log, ())):
            wake.set()

    async def _read_each_once(self, cursors: Sequence[Cursor], _: bool) -> list[Page]:
        """Readers at the same place of the same log share one page."""
        places = list(dict.fromkeys(cursors))
        pages = dict(zip(places, await self._store.read(places), strict=True))
        return [pages[cursor] for cursor in cursors]

    async def _read_queue_positions(self, message_ids: Sequence[UUID], _: bool) -> list[QueuePosition]:
        return await self._store.queue_positions(message_ids)
