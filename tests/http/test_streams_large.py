"""Large events: their readers get on, and delay no other reader."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from service.db.pool import Database
from service.events.model import Cursor, Page
from service.events.pages import BEHIND_BATCH_CURSORS, LIVE_PAGE_BYTES, Pages
from service.events.store import EventStore
from tests.support.api_client import Client
from tests.support.randomness import incompressible
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import event_ids, open_stream, stream_path
from tests.support.waiting import LIMIT_SECONDS


class ObservedStore(EventStore):
    """Counts the cursors of each query, and holds back the queries of readers that are behind."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.behind: list[int] = []
        self.is_reading_behind = asyncio.Event()
        self.may_read_behind = asyncio.Event()

    async def read(self, cursors: Sequence[Cursor], *args: Any, **settings: Any) -> list[Page | None]:
        if settings.get("at_least_one", True):
            self.behind.append(len(cursors))
            self.is_reading_behind.set()
            await self.may_read_behind.wait()
        return await super().read(cursors, *args, **settings)


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[ObservedStore]:
    database = Database(dsn, name="test", size=4)
    yield ObservedStore(database)
    await database.close()


async def submit_large(api: Client, script: ScriptedAgent, events: int, **fields: Any) -> str:
    """A message whose log ends with so many events, each larger than a page of a live reader."""
    message_id = await api.submit("x", agent="script", **fields)
    script.say(message_id, *(("blob", incompressible(2 * LIVE_PAGE_BYTES)) for _ in range(events)), None)
    await api.settled(message_id)
    return message_id


async def read(pages: Pages, cursor: Cursor, *, behind: bool) -> Page | None:
    page: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
    pages.enqueue(cursor, page, behind=behind)
    return await page


async def test_readers_that_are_behind_delay_no_live_reader(
    scripted_api: Client, script: ScriptedAgent, store: ObservedStore
) -> None:
    large = UUID(await submit_large(scripted_api, script, 20))
    small = UUID(await scripted_api.submit("one two"))
    await scripted_api.settled(str(small))
    pages_of_messages = Pages(store)
    cursors = [Cursor(large, after) for after in range(2, 22)]
    first = [await read(pages_of_messages, cursor, behind=False) for cursor in cursors]
    assert [(page and page.entries, page and page.more) for page in first] == [([], True)] * len(cursors)
    reading = [asyncio.create_task(read(pages_of_messages, cursor, behind=True)) for cursor in cursors]
    await asyncio.wait_for(store.is_reading_behind.wait(), LIMIT_SECONDS)
    for _ in range(3):
        page = await read(pages_of_messages, Cursor(small, 2), behind=False)
        assert page is not None
        assert [entry.seq for entry in page.entries] == [3, 4, 5]
    store.may_read_behind.set()
    pages = await asyncio.gather(*reading)
    assert [page.entries[0].seq for page in pages if page] == [cursor.after + 1 for cursor in cursors]
    assert max(store.behind) <= BEHIND_BATCH_CURSORS


async def test_a_reader_of_large_events_receives_them_all(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await submit_large(scripted_api, script, 12, thread_id="t")
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        assert event_ids(await stream.rest()) == list(range(1, 16))
    async with open_stream(scripted_api, "/threads/t/stream") as stream:
        assert event_ids(await stream.until("done")) == list(range(1, 16))
