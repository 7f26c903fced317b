"""Records of keys whose threads other transactions hold: they wait, and nothing else does."""

from typing import Any

import asyncpg
import pytest

from tests.support.invariants import assert_consistent
from tests.support.topic_calls import Topics


@pytest.fixture
async def topics(topics: Topics) -> Topics:
    """With the subscription s."""
    await topics.subscribe()
    return topics


def keyed(*values: str) -> list[dict[str, str]]:
    """Records such as `a1`, whose key is their letter."""
    return [{"value": value, "key": value[0]} for value in values]


async def deliver(topics: Topics, **arguments: Any) -> asyncpg.Record:
    named = ", ".join(f"{name} => ${n}" for n, name in enumerate(arguments, 1))
    await topics.sql.execute("select treadle.sequence_records()")
    return await topics.row(f"select * from treadle.deliver_records({named})", *arguments.values())


async def hold(topics: Topics, *keys: str) -> None:
    """Lock the threads of these keys in the open transaction of this client."""
    names = [f"records/s/{key}" for key in keys]
    await topics.sql.execute("select from treadle.threads where thread_id = any($1) for no key update", names)


async def test_a_held_key_delays_only_its_own_records(topics: Topics) -> None:
    """A user's transaction that cancelled a message of the key stays open: the position passes the key."""
    await topics.publish("t", *keyed("a1", "b1", "a2"))
    await topics.route()
    user = Topics(await topics.client.connect())
    async with user.sql.transaction():
        second = await topics.sql.fetchval("select message_id from treadle.messages where body = '\"a2\"'")
        assert await user.sql.fetchval("select treadle.cancel($1)", second) == "cancelled"
        await topics.publish("t", *keyed("a3", "b2", "c1"), "loose")
        row = await deliver(topics)
        assert (row["delivered"], row["again"], row["queues"]) == (3, ["default/s"], ["default"])
        await topics.publish("t", *keyed("a4", "b3"))
        assert (await deliver(topics))["delivered"] == 1
        row = await deliver(topics)
        assert (row["delivered"], row["again"], row["queues"]) == (0, ["default/s"], None)
        overview = await topics.overview()
        assert (overview["lag"], overview["open"], overview["held"]) == (2, 7, 2)
        assert overview["positions"] == [{"topic": "t", "next_offset": 9, "lag": 2}]
        await assert_consistent(topics.sql)
    await topics.publish("t", *keyed("a5"))
    assert (await deliver(topics))["again"] is None
    bodies = await topics.drain()
    assert sorted(bodies) == ["a1", "a3", "a4", "a5", "b1", "b2", "b3", "c1", "loose"]
    assert [body for body in bodies if body[0] == "a"] == ["a1", "a3", "a4", "a5"]
    assert await topics.sql.fetchval("select count(*) from treadle.held_records") == 0
    await assert_consistent(topics.sql)


async def test_a_key_stays_in_order_while_there_is_little_room(topics: Topics) -> None:
    """Held records that are free come before the next ones of their key, also where not all of them fit."""
    await topics.subscribe(max_in_flight=4)
    await topics.publish("t", *keyed("a0", "b0"))
    await topics.drain()
    user = Topics(await topics.client.connect())
    async with user.sql.transaction():
        await hold(user, "a", "b")
        await topics.publish("t", *keyed("a1", "b1", "a2", "b2", "a3", "c1"))
        await deliver(topics)
        await deliver(topics)
        assert (await topics.overview())["held"] == 5
    async with user.sql.transaction():
        await hold(user, "b")
        assert (await deliver(topics, quantity=2))["delivered"] == 2
        assert await topics.handle() == ["c1", "a1"]
        await topics.publish("t", *keyed("a4", "b3"))
        assert await topics.drain() == ["a2", "a3", "a4"]
    assert await topics.drain() == ["b1", "b2", "b3"]
    await assert_consistent(topics.sql)


async def test_a_subscription_that_holds_many_records_stops(topics: Topics) -> None:
    """The number of held records is bounded. Other subscriptions go on."""
    await topics.sql.execute(
        "create or replace function treadle._most_held() returns integer language sql as 'select 3'"
    )
    await topics.publish("t", *keyed("a0"))
    await topics.drain()
    await topics.subscribe("free", start="latest")
    user = Topics(await topics.client.connect())
    async with user.sql.transaction():
        await hold(user, "a")
        await topics.publish("t", *keyed("a1", "a2", "a3", "b1"))
        await deliver(topics)
        await topics.publish("t", *keyed("a4", "b2"))
        row = await deliver(topics)
        assert row["again"] == ["default/s"]
        assert sorted(await topics.handle()) == ["a1", "b1", "b1"]
        assert ((await topics.overview())["held"], (await topics.overview())["lag"]) == (3, 5)
    assert sorted(await topics.drain()) == ["a1", "a2", "a2", "a3", "a3", "a4", "a4", "b2", "b2"]
    await assert_consistent(topics.sql)


async def test_a_replay_neither_doubles_nor_overtakes_held_records(topics: Topics) -> None:
    await topics.publish("t", *keyed("a0", "a1"))
    await topics.drain()
    user = Topics(await topics.client.connect())
    async with user.sql.transaction():
        await hold(user, "a")
        await topics.publish("t", *keyed("a2", "a3"))
        await deliver(topics)
        await topics.sql.execute("select treadle.seek_subscription('s', '1')")
        await deliver(topics)
        assert (await topics.overview())["held"] == 3
        assert (await topics.overview())["lag"] == 3
        await topics.sql.execute("select treadle.seek_subscription('s', 'latest')")
    assert await topics.drain() == ["a1", "a2", "a3"]
    await assert_consistent(topics.sql)


async def test_held_records_that_are_deleted_are_counted(topics: Topics) -> None:
    await topics.create("u", retention_hours=1.0)
    await topics.subscribe("s", "t", "u")
    await topics.publish("t", *keyed("a0"))
    await topics.drain()
    user = Topics(await topics.client.connect())
    async with user.sql.transaction():
        await hold(user, "a")
        await topics.publish("t", *keyed("a1"))
        await topics.publish("u", *keyed("a2"))
        await deliver(topics)
        await topics.sql.execute("select treadle.delete_topic('u')")
        while await topics.sql.fetchval("select treadle.purge_records()"):
            pass
        assert (await topics.overview())["held"] == 2
    assert await topics.drain() == ["a1"]
    overview = await topics.overview()
    assert (overview["held"], overview["expired"]) == (0, 1)
    async with user.sql.transaction():
        await hold(user, "a")
        await topics.publish("t", *keyed("a3"))
        await deliver(topics)
        await topics.sql.execute("select treadle.delete_subscription('s')")
        assert await topics.sql.fetchval("select count(*) from treadle.held_records") == 0


async def test_a_thread_that_another_transaction_is_deleting_holds_its_key(topics: Topics) -> None:
    await topics.publish("t", *keyed("a0"))
    await topics.drain()
    user = Topics(await topics.client.connect())
    async with user.sql.transaction():
        await user.sql.execute("select treadle.delete_thread('records/s/a')")
        await topics.publish("t", *keyed("a1", "b1"))
        assert (await deliver(topics))["delivered"] == 1
        assert (await topics.overview())["held"] == 1
    assert await topics.drain() == ["b1", "a1"]
    await assert_consistent(topics.sql)
