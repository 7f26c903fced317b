"""Pages of event logs for many readers at once."""

import asyncio
from collections.abc import Sequence

from service.batching import Batcher
from service.events.model import Cursor, Page
from service.events.store import EventStore

LIVE_BATCH_CURSORS = 500
LIVE_PAGE_BYTES = 32_000
BEHIND_BATCH_CURSORS = 8  # of pages of STREAM_PAGE_BYTES, or of one larger event


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
        return await read_live(self._store, cursors)

    async def _read_behind(self, cursors: Sequence[Cursor], _: bool) -> list[Page | None]:
        places = list(dict.fromkeys(cursors))
        return _shared(cursors, places, await self._store.read(places))


async def read_live(store: EventStore, cursors: Sequence[Cursor]) -> list[Page | None]:
    """Small pages for readers that wait for the next event."""
    places = list(dict.fromkeys(cursors))
    return _shared(cursors, places, await store.read(places, page_bytes=LIVE_PAGE_BYTES, at_least_one=False))


def _shared(cursors: Sequence[Cursor], places: Sequence[Cursor], pages: Sequence[Page | None]) -> list[Page | None]:
    """Readers at the same place of the same log share one page."""
    found = dict(zip(places, pages, strict=True))
    return [found[cursor] for cursor in cursors]
