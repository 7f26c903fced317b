"""Wakes the readers of event logs and reads for them. A reader is a cursor, not a buffer.

A hint names logs. The next pages of their readers are read, each from its own cursor, and one query serves all of them.
A lost hint delays a reader by one poll interval at most.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol
from uuid import UUID

from service.batching import Batcher
from service.db.notifier import EVERYTHING
from service.events.model import Cursor, Log, Page
from service.events.positions import Positions
from service.events.store import EventStore

LIVE_BATCH_CURSORS = 500
LIVE_PAGE_BYTES = 32_000
BEHIND_BATCH_CURSORS = 8  # of pages of STREAM_PAGE_BYTES, or of one larger event


class Feed:
    def __init__(self, store: EventStore) -> None:
        self._readers: defaultdict[Log, set[Wakeable]] = defaultdict(set)
        # Apart, so that readers of threads and readers of messages do not wait for each other's query.
        self._message_pages = Pages(store)
        self._thread_pages = Pages(store)
        self.positions = Positions(store)
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

    @contextlib.contextmanager
    def follow(self, log: Log) -> Iterator["Follower"]:
        """A reader whose next page is read as soon as a hint names its log."""
        follower = Follower(log, self._pages(log))
        self._readers[log].add(follower)
        try:
            yield follower
        finally:
            self._readers[log].discard(follower)
            if not self._readers[log]:
                del self._readers[log]

    async def read(self, log: Log, after: int, *, behind: bool) -> Page | None:
        """The next events after `after`; None if the message or the thread does not exist.

        `behind`: the last page that this reader received said that there are more events.
        """
        return await self._pages(log).read(Cursor(log, after), behind=behind)

    def _pages(self, log: Log) -> "Pages":
        return self._message_pages if isinstance(log, UUID) else self._thread_pages

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
        for readers in list(self._readers.values()):
            for reader in list(readers):
                if isinstance(reader, Follower):
                    reader.stop()
                else:
                    reader.set()

    def _wake(self, log: Log) -> None:
        for wake in list(self._readers.get(log, ())):
            wake.set()


class Wakeable(Protocol):
    def set(self) -> None:
        """The log may have new events."""


class Follower:
    """A reader of a live log: a hint has its next page read, and wakes the reader only when the page is there."""

    def __init__(self, log: Log, pages: "Pages") -> None:
        self._log = log
        self._pages = pages
        self._hinted = False  # a hint came while the reader did not wait
        self._after = 0
        self._page: asyncio.Future[Page | None] | None = None  # that the reader waits for, until it is being read
        self._loop = asyncio.get_running_loop()

    async def read(self, after: int, *, behind: bool) -> Page | None:
        """The next events, read now; see Feed.read."""
        self._hinted = False
        return await self._pages.read(Cursor(self._log, after), behind=behind)

    async def wait(self, after: int, seconds: float) -> Page | None:
        """The next events, read when a hint names the log, or after so many seconds."""
        if self._hinted:
            return await self.read(after, behind=False)
        page: asyncio.Future[Page | None] = self._loop.create_future()
        self._page = page
        self._after = after
        timer = self._loop.call_later(seconds, self.set)
        try:
            return await page
        finally:
            timer.cancel()
            self._page = None

    def set(self) -> None:
        if self._page is None:
            self._hinted = True
        else:
            page, self._page = self._page, None
            if not page.done():
                self._pages.enqueue(Cursor(self._log, self._after), page)

    def stop(self) -> None:
        """Read nothing more: the reader receives an empty page."""
        if self._page is not None and not self._page.done():
            self._page.set_result(Page([]))


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

    def enqueue(self, cursor: Cursor, page: "asyncio.Future[Page | None]") -> None:
        """Read the page of a live reader with the next batch."""
        self._live.enqueue(cursor, page)

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
