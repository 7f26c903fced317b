"""Batches of submits and publishes have a bound in bytes, and one tenant's batch delays no other tenant."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.access.principal import AUTH_OFF, Principal
from service.db.notifier import Notifier
from service.db.pool import Database
from service.messages.model import NewMessage
from service.messages.store import SUBMIT_BATCH_MESSAGES, MessageStore
from service.topics.model import NewRecord, NewTopic
from service.topics.store import TopicStore
from tests.support.sql_client import SqlClient
from tests.support.waiting import LIMIT_SECONDS, wait_for

ACME: Principal = msgspec.structs.replace(AUTH_OFF, tenant="acme")
UNIT_BYTES = 10  # for each of which an item counts for one more
ITEM_BYTES = 1_000
ITEMS = 30


class Calls:
    """The batches that go to PostgreSQL. Those of the tenant `held` wait for `gate`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held: str | None = None) -> None:
        self.sizes: list[int] = []
        self.is_held = asyncio.Event()
        self.gate = asyncio.Event()
        fetch = Database.fetch

        async def noted(database: Database, query: str, *args: Any, **more: Any) -> Any:
            if "submit_many" in query or "publish_many" in query:
                batch = next(len(arg) for arg in args if isinstance(arg, str) and arg.startswith("["))
                self.sizes.append(batch)
                if held is not None and held in args:
                    self.is_held.set()
                    await self.gate.wait()
            return await fetch(database, query, *args, **more)

        monkeypatch.setattr(Database, "fetch", noted)


def message(size: int = ITEM_BYTES) -> NewMessage:
    return NewMessage("x" * size, agent="echo")


@pytest.fixture
def messages(database: Database) -> MessageStore:
    return MessageStore(database, Notifier(database), max_queue_size=1_000)


@pytest.fixture
def topics(database: Database) -> TopicStore:
    return TopicStore(database, Notifier(database))


async def test_a_batch_of_submits_has_a_bound_in_bytes(
    sql_client: SqlClient, messages: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.messages.store.MESSAGE_BYTES", UNIT_BYTES)
    calls = Calls(monkeypatch)
    accepted = await asyncio.gather(*(messages.submit(AUTH_OFF, message()) for _ in range(ITEMS)))
    assert len({each.message_id for each in accepted}) == ITEMS
    assert max(calls.sizes) <= SUBMIT_BATCH_MESSAGES * UNIT_BYTES
    assert max(calls.sizes) > 2 * ITEM_BYTES  # several go together
    await messages.submit(AUTH_OFF, message(SUBMIT_BATCH_MESSAGES * UNIT_BYTES + 1))  # one has no bound


async def test_a_batch_of_publishes_has_a_bound_in_bytes(
    sql_client: SqlClient, topics: TopicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.topics.store.RECORD_BYTES", UNIT_BYTES)
    monkeypatch.setattr("service.topics.store.MAX_BATCH_RECORDS", 500)
    await topics.declare(AUTH_OFF, "t", NewTopic())
    topics = TopicStore(topics._database, topics._notifier)
    calls = Calls(monkeypatch)
    values = [NewRecord("x" * ITEM_BYTES), NewRecord("y")]
    reports = await asyncio.gather(*(topics.publish(AUTH_OFF, "t", values) for _ in range(ITEMS)))
    assert len({record.record_id for report in reports for record in report}) == 2 * ITEMS
    assert 2 * ITEM_BYTES < max(calls.sizes) <= 500 * UNIT_BYTES


async def test_a_batch_of_one_tenant_delays_no_other_tenant(
    sql_client: SqlClient, messages: MessageStore, topics: TopicStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    for principal in (AUTH_OFF, ACME):
        for topic in ("t", "u"):
            await topics.declare(principal, topic, NewTopic())

    async def submit(principal: Principal, topic: str) -> None:
        await messages.submit(principal, message())

    async def publish(principal: Principal, topic: str) -> None:
        await topics.publish(principal, topic, [NewRecord("x")])

    for act in (submit, publish):
        with monkeypatch.context() as patch:
            calls = Calls(patch, held="acme")
            slow = [asyncio.create_task(act(ACME, topic)) for topic in ("t", "u")]
            await wait_for(calls.is_held)
            slow += [asyncio.create_task(act(ACME, topic)) for topic in ("t", "u")]
            async with asyncio.timeout(LIMIT_SECONDS):
                await act(AUTH_OFF, "t")
            assert not any(task.done() for task in slow)
            calls.gate.set()
            await asyncio.gather(*slow)
