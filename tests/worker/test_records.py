"""Records in a worker: the router delivers them, agents publish further ones."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.access.principal import COMMAND_LINE
from service.db.notifier import Notifier
from service.db.pool import Connection, Database
from service.limits import MAX_SEND_DEPTH
from service.subscriptions.model import NewPosition, NewSubscription
from service.subscriptions.store import SubscriptionStore
from service.threads.store import ThreadStore
from service.topics.model import NewRecord, NewTopic
from service.topics.store import TopicStore
from tests.support.fixture_types import StartWorker
from tests.support.invariants import assert_consistent
from tests.support.waiting import until
from treadle import Context, agent


class House:
    """Topics and subscriptions as the stores of the API see them."""

    def __init__(self, database: Database) -> None:
        self.notifier = Notifier(database)
        self.topics = TopicStore(database, self.notifier)
        self.subscriptions = SubscriptionStore(database)

    async def topic(self, *names: str) -> None:
        for name in names:
            assert await self.topics.declare(COMMAND_LINE, name, NewTopic()) == "created"

    async def subscribe(self, name: str, topics: str, agent: str, **more: Any) -> None:
        declared = NewSubscription(topics, agent, **{"start": "earliest", **more})
        assert await self.subscriptions.declare(COMMAND_LINE, name, declared) == "created"

    async def publish(self, topic: str, *values: Any, **more: Any) -> None:
        await self.topics.publish(COMMAND_LINE, topic, [NewRecord(value, **more) for value in values])

    async def values(self, topic: str) -> list[Any]:
        page = await self.topics.read(COMMAND_LINE, topic, 0, 1000)
        assert (page.gap, page.next_offset) == (0, len(page.records))
        return [msgspec.json.decode(record.value) for record in page.records]

    async def done(self, name: str, completed: int) -> None:
        """Wait until so many records of a subscription are completed."""
        await until(
            lambda: self.subscriptions.get(COMMAND_LINE, name),
            lambda found: (found.completed, found.open, found.lag) == (completed, 0, 0),
        )


async def sequence(sql: Connection) -> None:
    """Give every published record its offset, also beside a worker that is doing the same."""
    while await sql.fetchval("select more from treadle.sequence_records()"):
        pass


@pytest.fixture
async def house(database: Database) -> House:
    return House(database)


@agent("doubler")
async def doubler(context: Context, number: str) -> None:
    record = context.metadata["record"]
    await context.publish("doubled", str(int(number) * 2), key=record["key"], headers={"by": "doubler"})


async def test_records_flow_from_topic_to_topic(
    house: House, start_worker: StartWorker, sql: Connection, database: Database
) -> None:
    """By hints alone, also while a subscription has little room. The list of threads leaves those of keys out."""
    seen: list[str] = []

    @agent("collector")
    async def collector(context: Context, number: str) -> None:
        seen.append(number)

    await start_worker(doubler, collector, poll_interval=60.0)
    await house.topic("numbers", "doubled")
    await house.subscribe("double", "numbers", "doubler", max_in_flight=5)
    await house.subscribe("collect", "doubled", "collector")
    await house.publish("numbers", *map(str, range(50)), key="k")
    await house.done("double", 50)
    await house.done("collect", 50)
    assert seen == [str(2 * n) for n in range(50)]
    assert await house.values("doubled") == seen
    assert await sql.fetchval("select count(*) from treadle.threads") == 2
    assert await ThreadStore(database).page(COMMAND_LINE, 10, None) == ([], None)
    await assert_consistent(sql)


@pytest.mark.parametrize("following", [{"a": "a"}, {"a": "b", "b": "a"}], ids=["to itself", "in a ring"])
async def test_a_chain_through_topics_ends(
    house: House, start_worker: StartWorker, sql: Connection, following: dict[str, str]
) -> None:
    """Half of the handlers publish with a step, half with their end."""

    @agent("endless")
    async def endless(context: Context, n: int) -> None:
        await context.publish(following[context.metadata["record"]["topic"]], n + 1)
        if n % 2:
            await context.step("published", lambda: n)

    await start_worker(endless)
    await house.topic(*following)
    await house.subscribe("endless", "#", "endless")
    await house.publish("a", 0)
    [last] = await until(lambda: sql.fetch("select * from treadle.messages where state = 'failed'"))
    assert (last["depth"], last["failures"]) == (MAX_SEND_DEPTH, 1)
    assert "A chain of messages that send messages or publish records ends" in last["error"]
    assert await sql.fetchval("select count(*) from treadle.records") == MAX_SEND_DEPTH + 1
    await assert_consistent(sql)


async def test_calls_that_arrive_together_are_one_publish(house: House, sql: Connection) -> None:
    await house.topic("t")
    await asyncio.gather(*(house.publish("t", n) for n in range(20)))
    assert await sql.fetchval("select count(*) from pgmq.q_treadle_inbox") < 10
    report = await house.topics.publish_once(COMMAND_LINE, "key", b"x", "t", [NewRecord(1)])
    assert await house.topics.publish_once(COMMAND_LINE, "key", b"x", "t", [NewRecord(1)]) == report
    await sequence(sql)
    assert len(await house.values("t")) == 21
    place = await house.topics.place(COMMAND_LINE, report[0].record_id)
    assert (place.topic, place.offset) == ("t", 20)
    [topic], _ = await house.topics.page(COMMAND_LINE, None, 2)
    assert (topic.topic, topic.next_offset, topic.records_per_minute) == ("t", 21, 21)


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
async def test_what_an_attempt_publishes_is_there_once(
    house: House, start_worker: StartWorker, sql: Connection, delivery: Any
) -> None:
    """At least once: with the step that follows. Exactly once: with the completion only."""
    after_failure: list[int] = []

    @agent("fails", max_attempts=3)
    async def fails(context: Context, number: str) -> None:
        await context.publish("out", number)
        await context.publish("out", {"named": number}, name="named")
        await context.step("one", lambda: 1)
        if context.attempt < 3:
            await sequence(sql)
            after_failure.append(await sql.fetchval("select count(*) from treadle.topic_log where topic = 2"))
            raise ValueError("again")

    await start_worker(fails)
    await house.topic("in", "out")
    await house.subscribe("s", "in", "fails", delivery=delivery)
    await house.publish("in", "7")
    await house.done("s", 1)
    await sequence(sql)
    assert await house.values("out") == ["7", {"named": "7"}]
    assert after_failure == ([2, 2] if delivery == "at_least_once" else [0, 0])
    await house.subscriptions.seek(COMMAND_LINE, "s", NewPosition("earliest"))
    await house.done("s", 2)  # a replayed record is a new life
    await sequence(sql)
    assert len(await house.values("out")) == 4
    await assert_consistent(sql)


async def test_a_step_of_an_exactly_once_message_publishes_nothing(
    house: House, start_worker: StartWorker, sql: Connection
) -> None:
    @agent("steps")
    async def steps(context: Context, number: str) -> None:
        await context.step("one", lambda: context.publish("out", number))

    await start_worker(steps)
    await house.topic("in", "out")
    await house.subscribe("s", "in", "steps", delivery="exactly_once")
    await house.publish("in", "7")
    await until(lambda: house.subscriptions.get(COMMAND_LINE, "s"), lambda found: found.failed == 1)
    error = await sql.fetchval("select error from treadle.messages where state = 'failed'")
    assert "outside of its steps" in error


async def test_a_key_that_a_transaction_holds_goes_on_after_it(
    house: House, start_worker: StartWorker, sql: Connection, database: Database
) -> None:
    """Without a hint: the router tries held records again after a moment. Other keys do not wait."""
    seen: list[str] = []

    @agent("collector")
    async def collector(context: Context, text: str) -> None:
        seen.append(text)

    await start_worker(collector, poll_interval=60.0)
    await house.topic("t")
    await house.subscribe("s", "t", "collector")
    await house.publish("t", "a0", key="a")
    await house.done("s", 1)
    async with sql.transaction():
        await sql.execute("select from treadle.threads where thread_id = 'records/s/a' for no key update")
        await house.publish("t", "a1", "a2", key="a")
        await house.publish("t", *(f"b{n}" for n in range(20)), key="b")
        found = await until(lambda: house.subscriptions.get(COMMAND_LINE, "s"), lambda found: found.completed == 21)
        assert (found.lag, found.open) == (2, 0)
    await house.done("s", 23)
    assert [text for text in seen if text[0] == "a"] == ["a0", "a1", "a2"]
