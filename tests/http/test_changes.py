"""GET /changes: hints that lists and figures have changed, and which clients are told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from uuid import uuid4

import pytest

from service.changes import feed
from service.changes.store import ChangeStore, Looked
from service.db.pool import Connection, Database
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_client import Client, read_events
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.waiting import LIMIT_SECONDS


@pytest.fixture(autouse=True)
def one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ping is without an answer: an API that listens again tells its clients that they may have missed something."""
    monkeypatch.setattr("service.db.listener.PING_INTERVAL_SECONDS", 600.0)


@contextlib.asynccontextmanager
async def hints(api: Client, **headers: str) -> AsyncIterator["asyncio.Queue[list[str]]"]:
    """What the events name, of a stream that is open."""
    told: asyncio.Queue[list[str]] = asyncio.Queue()
    async with api.stream("GET", "/changes", headers=headers) as answer:
        assert answer.status_code == 200

        async def read() -> None:
            async for event in read_events(answer):
                assert event.type == "changed"
                told.put_nowait(event.data["of"])

        reading = asyncio.create_task(read())
        try:
            yield told
        finally:
            reading.cancel()


async def next_hint(told: "asyncio.Queue[list[str]]") -> list[str]:
    async with asyncio.timeout(LIMIT_SECONDS):
        return await told.get()


async def test_a_client_is_told_when_messages_and_topics_change(api: Client, sql: Connection) -> None:
    async with hints(api) as told:
        assert await next_hint(told) == ["messages", "topics"]  # what it has missed
        await api.submit("x")
        assert await next_hint(told) == ["messages"]
        await api.put("/topics/plan.in", json={})
        await sql.execute("select pg_notify('treadle_topics', id::text) from treadle.topics")
        assert await next_hint(told) == ["topics"]
        await sql.execute("select pg_notify('treadle_events', $1)", str(uuid4()))  # as of an event that no list shows
        await sql.execute("select pg_notify('treadle_topics', id::text) from treadle.topics")
        assert await next_hint(told) == ["topics"]
        await sql.execute("select pg_notify('treadle_topics', '0')")
        await api.submit("x", delay_seconds=1000)
        assert await next_hint(told) == ["messages"]
        assert told.empty()


async def test_a_tenant_hears_of_its_own_changes_only(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents()
    api = await start_api(**CLOSED)
    await sql.execute("select treadle.create_tenant('acme')")
    key = (await create_key(api, "read", "submit", tenant="acme"))["key"]
    async with hints(api, **bearer(ROOT_KEY)) as of_all, hints(api, **bearer(key)) as of_acme:
        for told in (of_all, of_acme):
            assert await next_hint(told) == ["messages", "topics"]
        await api.post("/messages", json={"message": "x"}, headers=bearer(ROOT_KEY))
        assert await next_hint(of_all) == ["messages"]
        await sql.execute("select treadle.create_topic('plan.in', tenant => 'acme')")
        await sql.execute("select pg_notify('treadle_topics', id::text) from treadle.topics")
        assert await next_hint(of_acme) == ["topics"]  # and nothing of the other tenant's message
        assert await next_hint(of_all) == ["topics"]
        await api.post("/messages", json={"message": "x"}, headers=bearer(key))
        assert await next_hint(of_acme) == ["messages"]
        assert await next_hint(of_all) == ["messages"]
        assert of_acme.empty()
    restricted = (await create_key(api, "read", agents=["echo"]))["key"]
    assert (await api.get("/changes", headers=bearer(restricted))).status_code == 403


async def test_only_while_a_client_listens_are_hints_followed_by_looks(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.0)
    looks: list[Looked] = []

    class Store(ChangeStore):
        async def look(self, after: int | None, topics: Collection[int] | None) -> Looked:
            looks.append(await super().look(after, topics))
            return looks[-1]

    changes = feed.ChangeFeed(Store(database))
    changes.receive_messages("*")
    changes.receive_topics("*")
    for _ in range(2):  # the second reader comes after the first has gone
        with changes.subscribe(None) as reader:
            await asyncio.wait_for(reader.wake.wait(), LIMIT_SECONDS)
            assert reader.take() == ["messages", "topics"]
        assert len(asyncio.all_tasks()) <= 2
    assert len(looks) == 2
