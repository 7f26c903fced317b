"""A service that an agent of a remote worker needs is overloaded: its message is put off without a failure."""

import asyncio
from typing import Any

import httpx2
import pytest

from service.db.pool import Connection
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.serving import serving, url_of
from tests.support.waiting import until
from treadle import Context, Overloaded, Worker, agent
from treadle.client import AsyncClient

OVERLOADS = 5


class Busy(Exception):
    """As the SDKs of models raise it."""

    response = httpx2.Response(529, headers={"retry-after": "1"})


@agent("moody", max_attempts=1)
async def moody(context: Context, how: str) -> str:
    if context.attempt <= (1 if how == "sdk" else OVERLOADS) or how == "for ever":
        raise Busy("busy") if how == "sdk" else ExceptionGroup("group", [ValueError("x"), Overloaded("busy", 0.01)])
    return "well"


@agent("moody-sync", max_attempts=1)
def moody_sync(context: Any, how: str) -> str:
    if context.attempt <= OVERLOADS:
        raise Overloaded
    return "well"


async def test_an_overload_is_no_failure(start_api: StartApi, start_worker: StartWorker, sql: Connection) -> None:
    await start_worker()
    api = await start_api(retry_base_seconds=0.001, retry_max_seconds=0.01)
    async with serving(Worker(moody, moody_sync, url=url_of(api))):
        for name, how, attempts in (("moody", "", 6), ("moody-sync", "", 6), ("moody", "sdk", 2)):
            status = await api.settled(await api.submit(how or "x", agent=name))
            assert (status["result"], status["attempt"]) == ("well", attempts)
    assert await sql.fetchval("select array_agg(failures) from treadle.messages") == [0, 0, 0]
    await assert_consistent(sql)


async def test_patience_ends(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker()
    api = await start_api(retry_base_seconds=0.001, retry_max_seconds=0.01, overload_patience=0.1)
    async with serving(Worker(moody, url=url_of(api))):
        status = await api.settled(await api.submit("for ever", agent="moody"))
    assert status["state"] == "failed"
    assert status["attempt"] > 1
    assert status["error"] == "busy This has lasted for more than 0.1 seconds (OVERLOAD_PATIENCE)."


async def test_the_handler_of_a_consumer_may_find_a_service_overloaded(
    start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker()
    api = await start_api(retry_base_seconds=0.001, retry_max_seconds=0.01)
    handled = asyncio.Event()

    async def handle(record: Any) -> None:
        if record.attempt <= OVERLOADS:
            raise Overloaded("busy", 0.01)
        handled.set()

    async with AsyncClient(url_of(api)) as client:
        await client.declare_topic("told")
        async with client.consumer("group", "told", start="earliest", max_attempts=1) as consumer:
            running = asyncio.create_task(consumer.run(handle))
            await client.publish("told", 1)
            await handled.wait()
            running.cancel()
            await asyncio.wait({running})
    assert await sql.fetchval("select max(failures) from treadle.messages") == 0


@pytest.mark.parametrize(("seconds", "base"), [(0.0, 1_000.0), (30.0, 0.001)])
async def test_the_message_waits_for_half_a_minute(
    seconds: float, base: float, start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    """As long as the service asks; where it names no delay, for at least a half of a minute or of RETRY_BASE_SECONDS
    twice."""
    await start_worker()
    api = await start_api(retry_base_seconds=base, retry_max_seconds=2_000.0)

    @agent("busy")
    async def busy(context: Context, text: str) -> None:
        raise Overloaded("busy", seconds)

    async with serving(Worker(busy, url=url_of(api))):
        message_id = await api.submit("x", agent="busy")
        await until(lambda: api.status(message_id), lambda status: status["hold"] == "backoff")
    waits = await sql.fetchval("select extract(epoch from run_at - created_at)::float8 from treadle.messages")
    assert waits >= 30.0
