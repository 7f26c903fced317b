"""Readers of event logs without hints: what was missed is found by looking at all their logs together."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from service.access.principal import AUTH_OFF
from service.db.pool import Database
from service.events.feed import FIRST_PAGES, Feed, LogReader
from service.events.model import Cursor, Page
from service.events.store import EventStore
from tests.support.api_client import Client
from tests.support.waiting import LIMIT_SECONDS


class HeldStore(EventStore):
    """Its reads wait while it is held, but for those of logs that are `free`."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.go_on = asyncio.Event()
        self.held = asyncio.Event()
        self.free: set[str | int] = set()

    async def read(self, cursors: Sequence[Cursor], *args: Any, **options: Any) -> list[Page | None]:
        if not self.free.issuperset(cursor.log for cursor in cursors):
            self.held.set()
            await self.go_on.wait()
        return await super().read(cursors, *args, **options)


class FailingStore(EventStore):
    """Fails as often as it is told to, in ways that no caller expects."""

    failures = 0

    async def grown(self, cursors: Sequence[Cursor]) -> list[int]:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a look failed")
        return await super().grown(cursors)


@pytest.fixture
async def store(dsn: str) -> AsyncIterator[FailingStore]:
    database = Database(dsn, name="test", size=1)
    yield FailingStore(database)
    await database.close()


async def at_end(reader: LogReader) -> int:
    """Read to the end of the log; returns the cursor there."""
    page = await reader.next(0, 20)
    assert page is not None
    return page.entries[-1].cursor


async def test_a_look_that_fails_is_repeated(api: Client, store: FailingStore) -> None:
    message_id = await api.submit("x", delay_seconds=600)
    feed = Feed(store, poll_interval=0.02)  # no listener calls it
    with feed.follow(UUID(message_id)) as reader:
        after = await at_end(reader)
        store.failures = 2
        await api.delete(f"/messages/{message_id}")
        page = await reader.next(after, 20)
    assert store.failures == 0
    assert page is not None
    assert [entry.type for entry in page.entries] == ["cancelled"]


async def test_a_hint_is_not_lost_while_a_reader_returns_from_its_wait(api: Client, store: FailingStore) -> None:
    message_id = await api.submit("x", delay_seconds=600)
    feed = Feed(store, poll_interval=600)
    with feed.follow(UUID(message_id)) as reader:
        after = await at_end(reader)
        waiting = asyncio.create_task(reader.next(after, 600))
        while not reader.waits:
            await asyncio.sleep(0)
        await api.delete(f"/messages/{message_id}")
        reader.stop()
        feed.receive(message_id)
        assert (page := await waiting) is not None
        assert page.is_empty
        page = await asyncio.wait_for(reader.next(after, 600), LIMIT_SECONDS)
    assert page is not None
    assert [entry.type for entry in page.entries] == ["cancelled"]


async def test_the_first_events_of_a_log_do_not_wait_for_the_further_ones_of_others(api: Client, dsn: str) -> None:
    busy, new = await api.submit("x", delay_seconds=600), await api.submit("x", delay_seconds=600)
    database = Database(dsn, name="test", size=2)
    store = HeldStore(database)
    store.free |= {busy, new}
    feed = Feed(store, poll_interval=600)
    with feed.follow(UUID(busy)) as old, feed.follow(UUID(new)) as reader:
        for _ in range(FIRST_PAGES):
            old.read_soon()
            await old.next(0, 20)
        store.free.remove(busy)
        old.read_soon()
        reading = asyncio.create_task(old.next(0, 20))
        await store.held.wait()
        assert await at_end(reader) == 1
        assert not reading.done()
        store.go_on.set()
        assert await reading is not None
    await database.close()


async def test_a_hint_during_the_first_page_has_the_next_one_read_at_once(api: Client, store: FailingStore) -> None:
    message_id = await api.submit("x", delay_seconds=600)
    feed = Feed(store, poll_interval=600)

    async def read_late() -> Page:
        page = await store.page(AUTH_OFF, UUID(message_id), 0)
        assert page is not None
        await api.delete(f"/messages/{message_id}")
        feed.receive(message_id)
        return page

    with feed.follow(UUID(message_id)) as reader:
        first = await reader.first(read_late())
        page = await asyncio.wait_for(reader.next(first.entries[-1].cursor, 600), LIMIT_SECONDS)
    assert page is not None
    assert [entry.type for entry in page.entries] == ["cancelled"]
