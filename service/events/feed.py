"""Reads event logs for their readers. A reader is a cursor, not a buffer.

A hint names logs. The next pages of their readers are read, each from its own cursor, and one query serves all of them.
A reader goes on when its page is there. A lost hint delays it by one poll interval at most: so often one query asks
which logs of waiting readers have grown.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Iterator, Sequence
from typing import TypeAlias
from uuid import UUID

from service.db.notifier import EVERYTHING
from service.errors import TreadleError
from service.events.model import Cursor, Log, Page
from service.events.pages import Pages
from service.events.positions import Positions
from service.events.store import EventStore
from service.waiting import Alarms, alarm_moment

log = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 30.0  # so that each reader asks at times whether it may still read
LOOK_CURSORS = 2_000  # in one query that only finds which logs have grown
FIRST_PAGES = 3  # of a reader, which do not wait for those of all others: an answer begins in them
QUIET_SECONDS = 0.25  # after so long a wait, the next page is a first one again

LogName: TypeAlias = str | int  # a log as hints name it: a message id as text, or threads.id


class Feed:
    """`poll_interval` in seconds: how long a lost hint can delay a reader."""

    def __init__(self, store: EventStore, *, poll_interval: float) -> None:
        self._readers: dict[LogName, list[LogReader]] = {}
        # Apart, so that readers of threads and readers of messages do not wait for each other's query.
        self._message_pages = Pages(store)
        self._thread_pages = Pages(store)
        self._alarms = Alarms()
        self._store = store
        self._poll_interval = poll_interval
        self._polling: asyncio.Task[None] | None = None
        self.positions = Positions(store)
        self.closing = False

    def follow(self, log: Log) -> "LogReader":
        """A reader, for a `with` block, whose next page is read as soon as a hint names its log."""
        pages = self._message_pages if isinstance(log, UUID) else self._thread_pages
        return LogReader(self, log, pages, self._alarms)

    def add(self, reader: "LogReader") -> None:
        readers = self._readers.setdefault(reader.name, [])
        reader.place = len(readers)
        readers.append(reader)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll())

    def discard(self, reader: "LogReader") -> None:
        readers = self._readers[reader.name]
        last = readers.pop()
        if last is not reader:
            readers[reader.place], last.place = last, reader.place
        if not readers:
            del self._readers[reader.name]
        if not self._readers and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    def receive(self, payload: str) -> None:
        """Read for the readers that a hint on treadle_events names."""
        if payload == EVERYTHING:
            self.read_for_all()
            return
        if not self._readers:  # a busy worker names thousands a second
            return
        for item in payload.split(","):
            message_id, _, thread = item.partition(":")
            self._read_for(message_id)
            if thread:
                with contextlib.suppress(ValueError):
                    self._read_for(int(thread))

    def read_for_all(self) -> None:
        """Hints may have been lost."""
        for reader in self._all():
            reader.read_soon()

    def close(self) -> None:
        """End every stream; its client reconnects to another process."""
        self.closing = True
        for reader in self._all():
            reader.stop()

    def _all(self) -> "list[LogReader]":
        return list(itertools.chain.from_iterable(self._readers.values()))

    def _read_for(self, name: LogName) -> None:
        for reader in self._readers.get(name, ()):
            reader.read_soon()

    async def _poll(self) -> None:
        """Find what lost hints were about: one look at the logs of all readers that wait, instead of one for each."""
        while True:
            await asyncio.sleep(self._poll_interval)
            waiting = [reader for reader in self._all() if reader.waits]
            for batch in _batches(waiting):
                try:
                    grown = await self._store.grown([reader.cursor for reader in batch])
                except TreadleError:  # each reader hears from its own read whether there is still an error
                    grown = list(range(len(batch)))
                except Exception:
                    log.exception("the look for grown logs failed")
                    continue
                for n in grown:
                    batch[n].read_soon()


class LogReader:
    """A reader of a live log: a hint has its next page read, and the reader goes on when the page is there."""

    __slots__ = (
        *("_after", "_alarm", "_alarms", "_at_once", "_behind", "_feed", "_firsts", "_page", "_pages", "_since"),
        "_until",
        *("name", "place"),
    )

    def __init__(self, feed: Feed, log: Log, pages: Pages, alarms: Alarms) -> None:
        self.name: LogName = str(log) if isinstance(log, UUID) else log
        self.place = 0  # among the readers of its log
        self._feed = feed
        self._pages = pages
        self._alarms = alarms
        self._after = 0  # where it waits
        self._at_once = True  # the next page is read without waiting: there was none so far, or there is more
        self._behind = False  # the last page said that there are more events
        self._firsts = FIRST_PAGES  # that are left
        self._page: asyncio.Future[Page | None] | None = None  # that the reader waits for, until it is being read
        self._since = 0.0  # it waits since then, by time.monotonic()
        self._until = 0.0  # it waits until then, by time.monotonic()
        self._alarm: int | None = None  # the moment of its next alarm

    def __enter__(self) -> "LogReader":
        self._feed.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.discard(self)

    async def first(self, read: Awaitable[Page]) -> Page:
        """Take the first page of the log from a call of the reader's own, which has not begun yet. A hint meanwhile has
        the next page read at once."""
        self._at_once = False
        page = await read
        self._note(page)
        return page

    async def next(self, after: int, seconds: float) -> Page | None:
        """The events after `after`, as soon as there are some; None if the message or the thread does not exist.

        The first call reads at once, so its page may be empty. So is the page after `seconds` (at most
        LONGEST_WAIT_SECONDS) without an event, and when the feed closes. A page that is being read is waited for.
        """
        found: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
        if self._at_once:
            self._at_once = False
            self._pages.enqueue(Cursor(self.name, after), found, behind=self._behind, first=self._firsts > 0)
            page = await found
        else:
            self._page, self._after = found, after
            self._since = now = time.monotonic()
            self._set_alarm(now + min(seconds, LONGEST_WAIT_SECONDS))
            try:
                page = await found
            finally:
                self._page = None
        self._note(page)
        return page

    def _note(self, page: Page | None) -> None:
        if self._firsts:
            self._firsts -= 1
        self._behind = page is not None and page.more
        if self._behind or (page is not None and page.ends_before is not None):
            self._at_once = True

    @property
    def waits(self) -> bool:
        """Whether it waits, and its page is not being read."""
        return self._page is not None and not self._page.done()

    @property
    def cursor(self) -> Cursor:
        """Where it waits."""
        return Cursor(self.name, self._after)

    def read_soon(self) -> None:
        """The log may have new events: read the next page now if the reader waits for it, else when it asks."""
        if self._page is None:
            self._at_once = True
        else:
            page, self._page = self._page, None
            if not page.done():
                is_first = self._firsts > 0 or time.monotonic() - self._since > QUIET_SECONDS
                self._pages.enqueue(self.cursor, page, first=is_first)

    def stop(self) -> None:
        """End the wait with an empty page. A hint before the reader goes on has its next page read at once."""
        if self._page is not None and not self._page.done():
            page, self._page = self._page, None
            page.set_result(Page([]))

    def _set_alarm(self, until: float) -> None:
        self._until = until
        moment = alarm_moment(until)
        if self._alarm is None or moment < self._alarm:
            self._alarm = moment
            self._alarms.set(moment, self)

    def ring(self, moment: int) -> None:
        """Stop its wait, or set the alarm again: it may have begun another wait since then."""
        if moment != self._alarm:
            return  # an earlier one was set later
        self._alarm = None
        if self.waits:
            if time.monotonic() < self._until:
                self._set_alarm(self._until)
            else:
                self.stop()


def _batches(readers: Sequence[LogReader]) -> Iterator[Sequence[LogReader]]:
    for start in range(0, len(readers), LOOK_CURSORS):
        yield readers[start : start + LOOK_CURSORS]
