"""Producers and consumers over HTTP: order, one copy of each record, ack, nack and retry."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faults.proxy import Proxy
from service.db.pool import Connection
from tests.support.api_client import Client as ApiClient
from tests.support.invariants import assert_consistent
from tests.support.ports import kept_port
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from treadle import Rejected, RetryAfter
from treadle.client import AsyncClient, Client, Delivered, Invalid, NotFound, Unavailable
from treadle.worker.consumer import AsyncConsumer, Record


@pytest.fixture
async def client(api_with_worker: ApiClient) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(str(api_with_worker.base_url)) as found:
        await found.declare_topic("t")
        yield found


async def values(client: AsyncClient, topic: str = "t") -> list[Any]:
    page = await until(lambda: client.records(topic, limit=1000, wait=1), lambda page: page.records)
    return [record.value for record in page.records]


async def test_records_are_stored_once_and_in_order_over_a_bad_network(
    api_with_worker: ApiClient, client: AsyncClient
) -> None:
    proxy = Proxy(api_with_worker.base_url.port or 0)
    await proxy.start()
    told: list[tuple[Exception | None, Delivered]] = []
    try:
        async with AsyncClient(f"http://127.0.0.1:{proxy.port}") as through:
            await through.health()  # so that the connection is open
            async with through.producer(batch_size=40, linger_seconds=10) as producer:
                for number in range(100):
                    if number in (30, 60):
                        proxy.lose_answers(1)
                    await producer.send("t", number, key="k", on_delivery=lambda *end: told.append(end))
                assert producer.buffered > 0
    finally:
        await proxy.close()
    assert proxy.cuts >= 1
    assert [error for error, _ in told] == [None] * 100
    await until(client.topics, lambda topics: topics[0].next_offset == 100)
    page = await client.records("t", limit=1000)
    assert [record.value for record in page.records] == list(range(100))
    assert [record.record_id for record in page.records] == [delivered.record_id for _, delivered in told]


async def test_a_record_that_is_refused_keeps_no_other_one(client: AsyncClient) -> None:
    await client.declare_topic("small", max_record_bytes=50)
    async with client.producer(buffer_bytes=500) as producer:
        answers = [await producer.send("small", "x" * (100 if number == 5 else 10)) for number in range(10)]
        missing = await producer.send("none", 1)
        ends = await asyncio.gather(*answers, missing, return_exceptions=True)
    assert [type(end) for end in ends] == [Delivered] * 5 + [Invalid] + [Delivered] * 4 + [NotFound]
    with pytest.raises(TypeError):
        await producer.send("small", object())


async def test_each_record_is_acked_retried_or_refused(client: AsyncClient, sql: Connection) -> None:
    async with client.consumer("g", "t", start="earliest", max_in_flight=2) as consumer:
        await client.publish_many("t", [{"value": number, "key": "k"} for number in range(4)])
        seen: list[tuple[Any, int]] = []
        async for record in consumer:
            seen.append((record.value, record.attempt))
            if record.value == 1:
                assert await record.nack("not this one")
            elif record.value == 2 and record.attempt == 1:
                assert await record.retry(0)
            else:
                assert await record.ack()
            with pytest.raises(RuntimeError):
                await record.ack()
            if record.value == 3:
                break
        assert seen == [(0, 1), (1, 1), (2, 1), (2, 2), (3, 1)]
        assert (record.topic, record.offset, record.key) == ("t", 3, "k")
        [subscription] = await until(client.subscriptions, lambda found: found[0].open == 0)
        assert (subscription.completed, subscription.failed, subscription.lag, subscription.expired) == (3, 1, 0, 0)
        assert (await client.pause_subscription("g")).paused
        assert not (await client.resume_subscription("g")).paused
        [letter] = (await client.dead_letters("remote")).items
        assert letter.reason == "not this one"
        await client.publish_many("t", [{"value": "a"}, {"value": "b"}, {"value": "c"}])
        async with contextlib.aclosing(consumer.batches(2, linger_seconds=LIMIT_SECONDS)) as batches:
            batch = await anext(batches)
        assert len(batch) == 2
        assert await batch[0].ack()
    await assert_consistent(sql)
    # Another consumer of the group gets what this one has not ended.
    async with client.consumer("g", "t") as other:
        left = [await anext(other), await anext(other)]
        assert {record.value for record in left} == {"a", "b", "c"} - {batch[0].value}
        for record in left:
            await record.ack()


async def test_handlers_run_in_threads_and_their_exceptions_decide(client: AsyncClient) -> None:
    handled: list[tuple[int, bool]] = []

    def handle(record: Record) -> None:
        if record.value == 1:
            raise Rejected("no")
        if record.value == 2 and record.attempt == 1:
            raise RetryAfter(0)
        handled.append((record.value, threading.current_thread() is threading.main_thread()))

    async def run(consumer: AsyncConsumer) -> None:
        await consumer.run(handle, concurrency=3)

    async with client.consumer("g", ["t", "u.*"], start="earliest") as consumer:
        running = asyncio.create_task(run(consumer))
        await client.publish_many("t", [{"value": number} for number in range(4)])
        [subscription] = await until(client.subscriptions, lambda found: found[0].completed + found[0].failed == 4)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert sorted(handled) == [(0, False), (2, False), (3, False)]
    assert (subscription.completed, subscription.failed) == (3, 1)


async def test_as_many_sync_handlers_run_at_once_as_concurrency_says(client: AsyncClient) -> None:
    together = threading.Barrier(20)

    def handle(record: Record) -> None:
        together.wait(LIMIT_SECONDS)

    async with client.consumer("g", "t", start="earliest") as consumer:
        await client.publish_many("t", [{"value": number} for number in range(20)])
        running = asyncio.create_task(consumer.run(handle, concurrency=20))
        await until(client.subscriptions, lambda found: found[0].completed == 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_cancelled_record_is_cancelled_at_once(client: AsyncClient, sql: Connection) -> None:
    async with client.consumer("g", "t", start="earliest") as consumer:
        await client.publish("t", 1)
        record = await anext(consumer)
        assert (await client.status(record.message_id)).user_message == 1
        await client.cancel(record.message_id)
        state = "select state from treadle.messages where message_id = $1::text::uuid"
        await until(lambda: sql.fetchval(state, record.message_id), lambda state: state == "cancelled")
        assert record.is_lost
        assert not await record.ack()


async def test_a_cancelled_record_is_over_when_its_handler_has_ended(client: AsyncClient, sql: Connection) -> None:
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    may_end, state = asyncio.Event(), "select state from treadle.messages where message_id = $1::text::uuid"

    async def handle(record: Record) -> None:
        begun.set_result(record.message_id)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
            await may_end.wait()

    stopped = asyncio.Event()
    async with client.consumer("g", "t", start="earliest") as consumer:
        await client.publish("t", 1)
        running = asyncio.create_task(consumer.run(handle))
        message_id = await begun
        await client.cancel(message_id)
        await wait_for(stopped)
        assert await sql.fetchval(state, message_id) == "processing"
        may_end.set()
        await until(lambda: sql.fetchval(state, message_id), lambda found: found == "cancelled")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_consumer_that_the_server_refuses_says_why(api_with_worker: ApiClient, client: AsyncClient) -> None:
    async with client.consumer("g", "t", max_attempts=0) as consumer:
        with pytest.raises(Invalid, match="max_attempts"):
            await consumer.run(print)


async def test_a_record_that_cannot_be_sent_is_given_up_in_time() -> None:
    """Counted from `send`: records that wait behind others have no more time than these."""
    told: list[Exception | None] = []
    with kept_port() as port:
        async with (
            asyncio.timeout(LIMIT_SECONDS),
            AsyncClient(f"http://127.0.0.1:{port}") as nowhere,
            nowhere.producer(delivery_seconds=0.5, batch_size=1) as producer,
        ):
            for number in range(2):
                await producer.send("t", number, on_delivery=lambda error, _: told.append(error))
    assert [type(error) for error in told] == [Unavailable] * 2


async def test_the_same_without_asyncio(api_with_worker: ApiClient) -> None:
    def use() -> list[Any]:
        told: list[Exception | None] = []
        with Client(str(api_with_worker.base_url)) as client:
            client.declare_topic("t")
            with client.consumer("g", "t", start="earliest") as consumer, client.producer() as producer:
                futures = [
                    producer.send("t", number, on_delivery=lambda error, _: told.append(error)) for number in range(6)
                ]
                assert futures[0].result(30).topic == "t"
                producer.flush(30)
                assert producer.buffered == 0
                found = []
                for record in consumer:
                    found.append(record.value)
                    assert record.ack()
                    if len(found) == 3:
                        break
                for batch in consumer.batches(3):
                    found += [record.value for record in batch]
                    for record in batch:
                        record.ack()
                    if len(found) == 6:
                        break
        assert told == [None] * 6
        return found

    assert sorted(await asyncio.to_thread(use)) == list(range(6))
