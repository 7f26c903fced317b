"""Wakes the readers of event logs and reads for them. A reader is a cursor, not a buffer.

A hint names logs. The next pages of their readers are read, each from its own cursor, and one query serves all of them.
A lost hint delays a reader by one poll interval at most: so often the logs of all readers that wait are looked at.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from uuid import UUID

from service.db.notifier import EVERYTHING
from service.errors import TreadleError
from service.events.model import Cursor, Log, Page
from service.events.pages import LIVE_BATCH_CURSORS, Pages, read_live
from service.events.positions import Positions
from service.events.store import EventStore

log = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 30.0  # so that each reader asks at times whether it may still read


class Feed:
    """`poll_interval` in seconds: how long a lost hint can delay a reader."""

    def __init__(self, store: EventStore, *, poll_interval: float) -> None:
        self._readers: defaultdict[Log, set[LogReader]] = defaultdict(set)
        # Apart, so that readers of threads and readers of messages do not wait for each other's query.
        self._message_pages = Pages(store)
        self._thread_pages = Pages(store)
        self._polling = Polling(store, poll_interval)
        self.positions = Positions(store)
        self.closing = False

    @contextlib.contextmanager
    def follow(self, log: Log) -> Iterator["LogReader"]:
        """A reader whose next page is read as soon as a hint names its log."""
        reader = LogReader(log, self._pages(log))
        self._readers[log].add(reader)
        self._polling.add(reader)
        try:
            yield reader
        finally:
            self._polling.discard(reader)
            self._readers[log].discard(reader)
            if not self._readers[log]:
                del self._readers[log]

    def _pages(self, log: Log) -> Pages:
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
                reader.stop()

    def _wake(self, log: Log) -> None:
        for reader in list(self._readers.get(log, ())):
            reader.wake()


class LogReader:
    """A reader of a live log: a hint has its next page read, and wakes the reader only when the page is there."""

    def __init__(self, log: Log, pages: Pages) -> None:
        self._log = log
        self._pages = pages
        self._at = Cursor(log, 0)  # where it waits
        self._at_once = True  # the next page is read without waiting: there was none so far, or there is more
        self._behind = False  # the last page said that there are more events
        self._page: asyncio.Future[Page | None] | None = None  # that the reader waits for, until it is being read
        self._loop = asyncio.get_running_loop()

    async def next(self, after: int, seconds: float) -> Page | None:
        """The events after `after`, as soon as there are some; None if the message or the thread does not exist.

        The first call reads at once, so its page may be empty. So is the page after `seconds` (at most
        LONGEST_WAIT_SECONDS) without an event, and when the feed closes. A page that is being read is waited for.
        """
        if self._at_once:
            self._at_once = False
            page = await self._pages.read(Cursor(self._log, after), behind=self._behind)
        else:
            page = await self._wait(Cursor(self._log, after), seconds)
        self._behind = page is not None and page.more
        if self._behind or (page is not None and page.log_end is not None):
            self._at_once = True
        return page

    async def _wait(self, at: Cursor, seconds: float) -> Page | None:
        page: asyncio.Future[Page | None] = self._loop.create_future()
        self._page = page
        self._at = at
        timer = self._loop.call_later(min(seconds, LONGEST_WAIT_SECONDS), self.stop)
        try:
            return await page
        finally:
            timer.cancel()
            self._page = None

    def wake(self) -> None:
        """The log may have new events."""
        if self._page is None:
            self._at_once = True
        else:
            page, self._page = self._page, None
            if not page.done():
                self._pages.enqueue(self._at, page)

    def waits_at(self) -> Cursor | None:
        """Where the reader waits; None: it does not, or its page is being read."""
        return None if self._page is None or self._page.done() else self._at

    def give(self, cursor: Cursor, page: Page | None) -> None:
        """The page at this cursor, if the reader still waits there."""
        if self.waits_at() is cursor:
            self._end_wait(page)

    def stop(self) -> None:
        """Wait no longer: the reader receives an empty page."""
        if self.waits_at() is not None:
            self._end_wait(Page([]))

    def _end_wait(self, page: Page | None) -> None:
        """A hint that comes before the reader goes on has it read at once."""
        assert self._page is not None
        waiting, self._page = self._page, None
        waiting.set_result(page)


class Polling:
    """Finds what lost hints were about: one look at the logs of all readers that wait, instead of one for each."""

    def __init__(self, store: EventStore, interval: float) -> None:
        self._store = store
        self._interval = interval
        self._readers: set[LogReader] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, reader: LogReader) -> None:
        self._readers.add(reader)
        if self._task is None:
            self._task = asyncio.create_task(self._poll())

    def discard(self, reader: LogReader) -> None:
        self._readers.discard(reader)
        if not self._readers and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            readers = list(self._readers)
            for start in range(0, len(readers), LIVE_BATCH_CURSORS):
                batch = readers[start : start + LIVE_BATCH_CURSORS]
                try:
                    await self._look(batch)
                except TreadleError:  # each reader hears from its own read whether there is still an error
                    for reader in batch:
                        reader.wake()
                except Exception:
                    log.exception("no look at the logs of readers")

    async def _look(self, readers: Sequence[LogReader]) -> None:
        waiting = [(reader, cursor) for reader in readers if (cursor := reader.waits_at()) is not None]
        if not waiting:
            return
        pages = await read_live(self._store, [cursor for _, cursor in waiting])
        for (reader, cursor), page in zip(waiting, pages, strict=True):
            if page is None or not page.is_empty:
                reader.give(cursor, page)
