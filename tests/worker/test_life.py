"""The worker as a process: how it stops, its heartbeats, and its chores."""

import asyncio
import datetime
import os
import socket
import threading

import asyncpg
import pytest

from service.agents.builtin.echo import echo
from service.agents.registry import Registry
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection, Database
from tests.support.agents import gate_agent
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, overview, run, settled, submit, submit_many, text, types
from tests.support.ports import with_closed_port
from tests.support.sql_rows import fetch_row
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from tests.support.workers import running_worker, worker_ids, worker_in_thread
from treadle import Context, agent

# Stopping


async def test_a_stopping_worker_finishes_its_messages_and_claims_no_more(sql: Connection, settings: Settings) -> None:
    wait, waiting, release = gate_agent()
    async with running_worker(sql, settings, wait, worker_concurrency=5) as worker:
        ids = await submit_many(sql, [{"message": str(n), "agent": "gate"} for n in range(3)])
        await until(lambda: len(waiting) == 3)
        worker.stop()
        await until(lambda: not worker.is_claiming)
        late = await submit(sql, "late", agent="gate")
        release.set()
        for message_id in ids:
            message = await settled(sql, message_id)
            assert (message["state"], message["attempt"], message["failures"]) == ("completed", 1, 0)
        await until(lambda: worker_ids(sql), lambda found: found == [])
    assert (await overview(sql, late))["state"] == "queued"
    assert "late" not in waiting


async def test_a_worker_claims_only_once_its_death_would_be_noticed_at_once(
    sql: Connection, database: Database, settings: Settings, start_worker: StartWorker
) -> None:
    """A worker that is killed right after its start holds no message that waits for WORKER_TIMEOUT."""
    watched = []

    @agent("look")
    async def look(context: Context, request: str) -> str:
        watched.append(
            await database.fetchval("select server_started = pg_postmaster_start_time() from treadle.workers")
        )
        return request

    async with running_worker(sql, settings, look) as first:
        first.stop()  # registers the agent
    message_id = await submit(sql, "x", agent="look")
    await start_worker(look, heartbeat_interval=1000.0, worker_timeout=5000.0)
    await settled(sql, message_id)
    assert watched == [True]


@pytest.mark.parametrize("how", ["second stop", "grace is over"])
async def test_unfinished_messages_are_handed_back_and_finish_on_another_worker(
    how: str, sql: Connection, settings: Settings, start_worker: StartWorker
) -> None:
    running = asyncio.Event()

    @agent("slow")
    async def slow(context: Context, request: str) -> str:
        await context.emit(f"attempt {context.attempt}")
        if context.attempt == 1:
            running.set()
            await asyncio.Event().wait()
        return request

    async with running_worker(sql, settings, slow, shutdown_grace=1000 if how == "second stop" else 0.1) as worker:
        message_id = await submit(sql, "x", agent="slow", max_attempts=1, thread_id="t")
        await wait_for(running)
        worker.stop()
        if how == "second stop":
            worker.stop()
        message = await settled(sql, message_id, "queued")
        assert (message["attempt"], message["failures"], message["losses"]) == (1, 0, 0)
        retry = (await log(sql, message_id))[-1]
        assert retry.type == "retry"
        assert retry.data["error"] == "The worker was stopped."
        await until(lambda: worker_ids(sql), lambda found: found == [])
    other = await start_worker(slow)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["worker_id"]) == ("completed", 2, other.worker_id)
    assert await types(sql, message_id) == ["queued", "started", "chunk", "retry", "started", "chunk", "done"]
    assert await text(sql, message_id) == "attempt 2"


async def test_messages_claimed_after_the_second_stop_are_handed_back_at_once(
    sql: Connection, dsn: str, settings: Settings
) -> None:
    wait, waiting, _ = gate_agent()
    blocker = await asyncpg.connect(dsn)
    try:
        async with running_worker(sql, settings, wait, shutdown_grace=1000) as worker:
            async with blocker.transaction():
                await blocker.execute("lock table treadle.leases in exclusive mode")
                message_id = await submit(sql, "x", agent="gate")
                blocked = (
                    "select count(*) from pg_stat_activity where datname = current_database()"
                    " and wait_event_type = 'Lock' and query like '%.claim(%'"
                )
                await until(lambda: sql.fetchval(blocked))
                worker.stop()
                worker.stop()
            await until(lambda: worker_ids(sql), lambda found: found == [])
    finally:
        await blocker.close()
    message = await overview(sql, message_id)
    assert (message["state"], message["failures"], message["losses"]) == ("queued", 0, 0)
    assert waiting == []


async def test_a_message_cancelled_while_its_worker_stops_is_cancelled(sql: Connection, settings: Settings) -> None:
    wait, waiting, _ = gate_agent()
    async with running_worker(sql, settings, wait) as worker:
        message_id = await submit(sql, "x", agent="gate")
        await until(lambda: waiting)
        worker.stop()
        await sql.fetchval("select treadle.cancel($1)", message_id)
        assert (await settled(sql, message_id))["state"] == "cancelled"


async def test_a_worker_that_never_found_its_database_can_be_stopped(settings: Settings) -> None:
    worker = build_worker(settings, with_closed_port(str(settings.database_url)), Registry(settings, [echo]))
    task = asyncio.create_task(worker.run())
    await asyncio.wait({task}, timeout=0.1)  # it keeps trying
    worker.stop()
    await asyncio.wait_for(task, LIMIT_SECONDS)


# Heartbeats


async def test_a_worker_sends_heartbeats_and_signs_off(sql: Connection, settings: Settings) -> None:
    wait, waiting, release = gate_agent()
    row = "select * from treadle.worker_overview where worker_id = $1"
    async with running_worker(sql, settings, wait, worker_concurrency=7, queues=("default", "spare")) as worker:
        first = await fetch_row(sql, row, worker.worker_id)
        assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
        assert (first["queues"], first["concurrency"], first["in_flight"]) == (["default", "spare"], 7, 0)
        await submit_many(sql, [{"message": "x", "agent": "gate"}] * 2)
        await until(lambda: len(waiting) == 2)
        later = await until(
            lambda: fetch_row(sql, row, worker.worker_id), lambda found: found["heartbeat_at"] > first["heartbeat_at"]
        )
        assert later["in_flight"] == 2
        assert later["started_at"] == first["started_at"]
        release.set()
    assert await worker_ids(sql) == []


async def test_a_worker_whose_loop_is_blocked_is_late_not_dead(
    sql: Connection, settings: Settings, start_worker: StartWorker
) -> None:
    frozen, thaw = threading.Event(), threading.Event()
    beside = threading.Event()

    @agent("freeze")
    async def freeze(context: Context, request: str) -> str:
        frozen.set()
        assert thaw.wait(LIMIT_SECONDS)  # blocks the loop, which an agent must not do
        return request

    @agent("beside")
    async def neighbour(context: Context, request: str) -> str:
        beside.set()
        await context.emit("before")
        assert await asyncio.to_thread(thaw.wait, LIMIT_SECONDS)
        await context.emit(" and after")
        return request

    with worker_in_thread(settings, freeze, neighbour, worker_concurrency=5) as worker:
        await until(lambda: worker_ids(sql), lambda found: worker.worker_id in found)
        late = await submit(sql, "late", agent="beside")
        await wait_for(beside)
        blocking = await submit(sql, "blocking", agent="freeze")
        await wait_for(frozen)
        await start_worker(echo, queues=("spare",))  # its janitor looks for dead workers
        beat = "select heartbeat_at from treadle.workers where worker_id = $1"
        begun = await sql.fetchval(beat, worker.worker_id)
        try:
            await until(
                lambda: sql.fetchval(beat, worker.worker_id), lambda at: at > begun + datetime.timedelta(seconds=3)
            )
            assert (await overview(sql, late))["state"] == "processing"
        finally:
            thaw.set()
        for message_id in (late, blocking):
            message = await settled(sql, message_id)
            assert (message["state"], message["attempt"], message["losses"]) == ("completed", 1, 0)
        assert await text(sql, late) == "before and after"


# Chores


async def test_the_janitor_purges_messages_past_their_retention(
    sql: Connection, dsn: str, settings: Settings, start_worker: StartWorker
) -> None:
    async with running_worker(sql, settings, echo):
        old = [await run(sql, "alone"), await run(sql, "in a thread", thread_id="t")]
        dead = await run(sql, "dead", metadata={"delay_ms": "no number"})
        open_one = await submit(sql, "open", thread_id="open", delay_seconds=10_000_000)
    assert dead["state"] == "failed"
    # Eight days pass.
    await sql.execute(f"alter database {dsn.rpartition('/')[2]} set treadle.clock_shift = '8 days'")
    await start_worker(echo, all_chores=True)
    await until(lambda: sql.fetchval("select count(*) from treadle.messages"), lambda found: found == 2)
    assert await overview(sql, dead["message_id"])
    assert await overview(sql, open_one)
    for message in old:
        assert (
            await sql.fetchval("select count(*) from treadle.events where message_id = $1", message["message_id"]) == 0
        )
    assert [row["thread_id"] for row in await sql.fetch("select thread_id from treadle.threads")] == ["open"]
    recent = await run(sql, "recent")
    assert recent["state"] == "completed"
