"""A lost answer, lease, worker or connection loses no message."""

import asyncio
import functools
import operator
import threading
from typing import Any

import asyncpg
import pytest

from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, submit_many, text, types
from tests.support.waiting import until, wait_for
from tests.support.workers import lose_worker, worker_ids, worker_in_thread
from treadle import Context, agent

TAKE_AWAY = (
    "select treadle._settle_leases(array(select l from treadle.leases l where l.message_id = $1),"
    " 'lost', 'Taken away.', 3, treadle.clock())"
)


async def test_a_claim_whose_answer_was_lost_is_released(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.heartbeat.CLAIM_GRACE_SECONDS", 0.1)
    deprived = await start_worker(echo, queues=("spare",))
    message_id = await submit(sql, "x")
    claim = "select count(*) from treadle.claim($1, array['default'], 10, 60)"
    assert await sql.fetchval(claim, deprived.worker_id) == 1
    message = await settled(sql, message_id, "queued")
    assert (message["attempt"], message["failures"], message["losses"]) == (1, 0, 0)
    assert (await log(sql, message_id))[-1].data["error"] == "The answer to the claim was lost."
    monkeypatch.undo()  # the other worker's answers may be slow
    await start_worker(echo)
    assert (await settled(sql, message_id))["attempt"] == 2


@pytest.mark.parametrize("where", ["the same worker", "another worker"])
@pytest.mark.parametrize("way", ["emits", "returns", "fails", "is silent"])
async def test_an_attempt_that_lost_its_lease_writes_nothing_and_is_stopped(
    way: str, where: str, sql: Connection, start_worker: StartWorker
) -> None:
    running, stolen, stopped, second = (asyncio.Event() for _ in range(4))

    @agent("twice")
    async def twice(context: Context, request: str) -> str:
        if context.attempt == 2:
            await second.wait()
            await context.emit("second")
            return "second"
        running.set()
        try:
            await stolen.wait()
            if way == "emits":
                for _ in range(3000):
                    await context.emit("zombie" * 200)
            elif way == "fails":
                raise ValueError("zombie")
            elif way == "is silent":
                await asyncio.Event().wait()
            return "zombie"
        finally:
            stopped.set()

    first = await start_worker(twice, shutdown_grace=1000)
    message_id = await submit(sql, "x", agent="twice", thread_id="t")
    await wait_for(running)
    if where == "another worker":
        first.stop()
        await until(lambda: not first.is_claiming)
        other = await start_worker(twice)
    async with sql.transaction():
        assert await sql.fetchval(TAKE_AWAY, message_id)
        await sql.execute("notify treadle_work, 'default'")  # the next worker claims it before any heartbeat
    await settled(sql, message_id, "processing")
    stolen.set()
    await wait_for(stopped)
    second.set()
    message = await settled(sql, message_id)
    assert (message["result"], message["attempt"], message["losses"], message["failures"]) == ("second", 2, 1, 0)
    assert message["worker_id"] == (first if where == "the same worker" else other).worker_id
    assert await types(sql, message_id) == ["queued", "started", "retry", "started", "chunk", "done"]


async def test_an_agent_that_only_emits_does_not_block_its_worker_when_its_lease_is_lost(
    sql: Connection, settings: Settings
) -> None:
    running = threading.Event()

    @agent("babbling")
    async def babbling(context: Context, request: str) -> str:
        while context.attempt == 1:
            await context.emit("x" * 1000)
            running.set()
        return "second"

    # Without polls and heartbeats, only the answer to an append can tell the worker.
    with worker_in_thread(settings, babbling, echo, poll_interval=1000, heartbeat_interval=1000) as worker:
        await until(lambda: worker_ids(sql), lambda found: worker.worker_id in found)
        message_id = await submit(sql, "x", agent="babbling")
        await wait_for(running)
        await until(lambda: sql.fetchval(TAKE_AWAY, message_id))
        assert (await run(sql, "next", agent="echo"))["result"] == "next"
        assert (await settled(sql, message_id))["result"] == "second"


async def test_the_messages_of_a_vanished_worker_run_on_another_one(
    sql: Connection, start_worker: StartWorker, register_agents: Any
) -> None:
    await register_agents()
    message_id = await submit(sql, "x")
    # A worker on a vanished host: it sent one heartbeat, has no listener, and never finishes its claim.
    who = "'vanished', 'host', 1, array['default'], 1, now(), null"
    await sql.fetch(f"select * from treadle.heartbeat({who}, '{{}}', '{{}}', 0.5, 60, 5)")
    assert await sql.fetchval("select count(*) from treadle.claim('vanished', array['default'], 10, 60)") == 1
    await start_worker(echo)
    await lose_worker(sql, "vanished")
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["losses"]) == ("completed", 2, 1)
    assert (await log(sql, message_id))[2].data["error"] == "The worker was lost."


async def test_connections_killed_in_the_middle_of_streams_lose_nothing(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.heartbeat.CLAIM_GRACE_SECONDS", 1.0)
    words = " ".join(f"word{n}" for n in range(40))
    for _ in range(2):  # neither takes the other one for lost before it is connected again
        await start_worker(echo, heartbeat_interval=60)
    ids = await submit_many(
        sql,
        [
            {"message": words, "metadata": {"delay_ms": 20}, **({"thread_id": f"t{n % 5}"} if n < 10 else {})}
            for n in range(30)
        ],
    )
    events = "select count(*) from treadle.events"
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where application_name like 'treadle %' and datname = current_database()"
    )
    seen = await sql.fetchval(events)
    for _ in range(6):
        seen = await until(lambda: sql.fetchval(events), functools.partial(operator.lt, seen + 50))
        await until(lambda: sql.fetchval(kill))  # at least one: all may be reconnecting
    for message_id in ids:
        message = await settled(sql, message_id)
        assert (message["state"], message["failures"], message["losses"]) == ("completed", 0, 0)
        assert message["result"] == words
        assert await text(sql, message_id) == words
        assert (await types(sql, message_id)).count("done") == 1
    assert await sql.fetchval("select count(*) from treadle.leases") == 0


async def test_a_connection_that_dies_during_history_does_not_fail_the_agent(
    sql: Connection, dsn: str, start_worker: StartWorker
) -> None:
    ready, go = asyncio.Event(), asyncio.Event()

    @agent("remember")
    async def remember(context: Context, request: str) -> Any:
        ready.set()
        await go.wait()
        return [exchange.message for exchange in await context.history()]

    await start_worker(remember, echo)
    await run(sql, "one", agent="echo", thread_id="t")
    message_id = await submit(sql, "two", agent="remember", thread_id="t", max_attempts=1)
    await wait_for(ready)
    blocker = await asyncpg.connect(dsn)
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock' and query like '%treadle.exchanges(%'"
    )
    try:
        async with blocker.transaction():
            await blocker.execute("lock table treadle.messages in access exclusive mode")
            go.set()
            await until(lambda: sql.fetchval(kill))
    finally:
        await blocker.close()
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["result"]) == ("completed", 1, ["one"])
