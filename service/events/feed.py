"""Wakes the readers of event logs and reads for them. A reader is a cursor, not a buffer.

A hint wakes the readers of the logs that it names. Each then reads on from its own cursor, and one query serves all
readers that are awake. A lost hint delays a reader by one poll interval at most.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from uuid import UUID

from service.batching import Batcher
from service.db.notifier import EVERYTHING
from service.events.model import Cursor, Log, Page, QueuePosition
from service.events.store import EventStore

LIVE_BATCH_CURSORS = 500
LIVE_PAGE_BYTES = 32_000
BEHIND_BATCH_CURSORS = 8  # of pages of STREAM_PAGE_BYTES, or of one larger event
POSITION_BATCH_MESSAGES = 1_000  # one query counts each lane once


class Feed:
    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._readers: defaultdict[Log, set[asyncio.Event]] = defaultdict(set)
        # Apart, so that readers of threads and readers of messages do not wait for each other's query.
        self._message_pages = Pages(store)
        self._thread_pages = Pages(store)
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

    async def read(self, log: Log, after: int, *, behind: bool) -> Page | None:
        """The next events after `after`; None if the message or the thread does not exist.

        `behind`: the last page that this reader received said that there are more events.
        """
        pages = self._message_pages if isinstance(log, UUID) else self._thread_pages
        return await pages.read(Cursor(log, after), behind=behind)

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

    async def _read_queue_positions(self, message_ids: Sequence[UUID], _: bool) -> list[QueuePosition]:
        return await self._store.queue_positions(message_ids)


class Pages:
    """Reads pages for many readers at once, with a bounded number of bytes in each query.

    A live reader waits for the next event, so its page is small, and many readers share a query. A reader that is
    behind gets a large page, in queries of a few readers beside those of the live ones: a long log, or one of large
    events, delays only readers that are behind. An event too large for a small page is read in a large one.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._live: Batcher[Cursor, Page | None] = Batcher(self._read_live, limit=LIVE_BATCH_CURSORS)
        self._behind: Batcher[Cursor, Page | None] = Batcher(self._read_behind, limit=BEHIND_BATCH_CURSORS)

    async def read(self, cursor: Cursor, *, behind: bool) -> Page | None:
        return await (self._behind if behind else self._live).submit(cursor)

    async def _read_live(self, cursors: Sequence[Cursor], _: bool) -> list[Page | None]:
        places = list(dict.fromkeys(cursors))
        pages = await self._store.read(places, page_bytes=LIVE_PAGE_BYTES, at_least_one=False)
        return _shared(cursors, places, pages)

    async def _read_behind(self, cursors: Sequence[Cursor], _: bool) -> list[Page | None]:
        places = list(dict.fromkeys(cursors))
        return _shared(cursors, places, await self._store.read(places))


def _shared(cursors: Sequence[Cursor], places: Sequence[Cursor], pages: Sequence[Page | None]) -> list[Page | None]:
    """Readers at the same place of the same log share one page."""
    found = dict(zip(places, pages, strict=True))
    return [found[cursor] for cursor in cursors]
