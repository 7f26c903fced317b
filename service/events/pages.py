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
    events, delays only readers that are behind. An event too large for a small page is read in a large one. The first
    events of an answer do not wait for the further ones of all others: they are read beside those.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._live: Batcher[Cursor, Page | None] = Batcher(self._read_live, limit=LIVE_BATCH_CURSORS, in_turns=True)
        self._first: Batcher[Cursor, Page | None] = Batcher(self._read_live, limit=LIVE_BATCH_CURSORS, in_turns=True)
        self._behind: Batcher[Cursor, Page | None] = Batcher(self._read_behind, limit=BEHIND_BATCH_CURSORS)

    def enqueue(
        self, cursor: Cursor, page: "asyncio.Future[Page | None]", *, behind: bool = False, first: bool = False
    ) -> None:
        """Read the page of a reader with the next batch."""
        (self._behind if behind else self._first if first else self._live).enqueue(cursor, page)

    async def _read_live(self, cursors: Sequence[Cursor], _: bool) -> list[Page | None]:
        places, at = _places(cursors)
        pages = await self._store.read(places, page_bytes=LIVE_PAGE_BYTES, at_least_one=False)
        return [pages[place] for place in at]

    async def _read_behind(self, cursors: Sequence[Cursor], _: bool) -> list[Page | None]:
        places, at = _places(cursors)
        pages = await self._store.read(places)
        return [pages[place] for place in at]


def _places(cursors: Sequence[Cursor]) -> tuple[list[Cursor], list[int]]:
    """The places without repetition, and at which of them each reader is: readers at one place share a page."""
    places: dict[Cursor, int] = {}
    at = [places.setdefault(cursor, len(places)) for cursor in cursors]
    return list(places), at
