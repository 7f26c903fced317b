"""The worker as a process: what it takes and in which order, how it stops, and that losing anything loses nothing."""

import asyncio
import os
import socket
import threading
from collections import defaultdict
from typing import Any

import asyncpg
import msgspec
import pytest
from conftest import StartWorker, until
from workshop import (
    closed_port,
    happens,
    log,
    look,
    run,
    settled,
    submit,
    submit_many,
    text,
    types,
    workers,
    working,
    working_apart,
)

from service.agents.contract import Agent, Context, agent
from service.agents.echo import echo
from service.agents.registry import Registry
from service.config import Settings
from service.db.pool import Connection
from service.worker.loop import Worker

TAKE_AWAY = "select treadle._take_back(array[$1::uuid], 'lost', 'Taken away.', 3, treadle.clock())"


async def in_flight(sql: Connection) -> dict[str, int]:
    rows = await sql.fetch("select worker_id, in_flight from treadle.worker_overview")
    return {row["worker_id"]: row["in_flight"] for row in rows}


def gate() -> tuple[Agent, list[str], asyncio.Event]:
    """An agent that waits: with whom it waits, and the event that lets all of them end."""
    waiting: list[str] = []
    release = asyncio.Event()

    @agent("gate")
    async def wait(context: Context, request: str) -> str:
        waiting.append(request)
        await release.wait()
        return request

    return wait, waiting, release


# What it takes


async def test_it_runs_as_many_messages_at_once_as_worker_concurrency_says(
    sql: Connection, start_worker: StartWorker, agents: Any
) -> None:
    running = most = 0
    release = asyncio.Event()

    @agent("count")
    async def count(context: Context, request: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1

    await agents(count)
    ids = await submit_many(sql, [{"message": str(n), "agent": "count"} for n in range(10)])
    worker = await start_worker(count, worker_concurrency=3)
    await until(lambda: in_flight(sql), lambda found: found == {worker.worker_id: 3})
    release.set()
    for message_id in ids:
        assert (await settled(sql, message_id))["state"] == "completed"
    assert most == 3


async def test_two_workers_share_a_queue(sql: Connection, start_worker: StartWorker) -> None:
    wait, waiting, release = gate()
    first = await start_worker(wait, worker_concurrency=10)
    second = await start_worker(wait, worker_concurrency=10)
    ids = await submit_many(sql, [{"message": str(n), "agent": "gate"} for n in range(20)])
    await until(lambda: in_flight(sql), lambda found: found == {first.worker_id: 10, second.worker_id: 10})
    release.set()
    found = {(await settled(sql, message_id))["worker_id"] for message_id in ids}
    assert found == {first.worker_id, second.worker_id}
    assert sorted(waiting, key=int) == [str(n) for n in range(20)]


async def test_threads_stay_in_order_on_two_workers_and_nothing_is_lost_or_doubled(
    sql: Connection, start_worker: StartWorker
) -> None:
    """1,000 threads, 5,000 messages."""
    inside: set[str] = set()
    together: list[str] = []
    order: defaultdict[str, list[int]] = defaultdict(list)

    @agent("record")
    async def record(context: Context, request: str) -> str:
        assert context.thread_id is not None
        if context.thread_id in inside:
            together.append(context.thread_id)
        inside.add(context.thread_id)
        await context.emit(request)
        order[context.thread_id].append(int(request))
        await asyncio.sleep(0)
        inside.discard(context.thread_id)
        return request

    for _ in range(2):
        await start_worker(record)
    for turn in range(5):
        await submit_many(sql, [{"message": str(turn), "agent": "record", "thread_id": f"t{n}"} for n in range(1000)])
    await until(
        lambda: sql.fetchval("select count(*) from treadle.messages where state = 'completed'"), (5000).__eq__, 60
    )
    assert together == []
    assert dict(order) == {f"t{n}": [0, 1, 2, 3, 4] for n in range(1000)}
    # The database says the same: one attempt each, on both workers, and each turn over before the next begins.
    assert await sql.fetchval("select count(*) from treadle.messages where attempt = 1 and result = body") == 5000
    assert await sql.fetchval("select count(distinct worker_id) from treadle.messages") == 2
    assert await sql.fetchval("select count(*) from pgmq.q_default_normal") == 0
    overlaps = await sql.fetchval("""
        select count(*) from (
            select e.type, e.message_id, lag(e.type) over w as before, lag(e.message_id) over w as whose
            from treadle.events e where e.type in ('started', 'done')
            window w as (partition by e.thread order by e.thread_pos)) e
        where e.type = case e.before when 'started' then 'started' else 'done' end
            or e.type = 'done' and e.message_id <> e.whose""")
    assert overlaps == 0
    holes = await sql.fetchval("""
        select count(*) from (
            select e.thread_pos, row_number() over (partition by e.thread order by e.thread_pos) as n
            from treadle.events e) e
        where e.thread_pos <> e.n""")
    assert holes == 0


async def test_high_goes_before_normal_before_low(sql: Connection, start_worker: StartWorker, agents: Any) -> None:
    order: list[str] = []

    @agent("order")
    async def note(context: Context, request: str) -> None:
        order.append(request)

    await agents(note)
    messages = [
        {"message": f"{priority} {n}", "priority": priority, "agent": "order"}
        for n in range(3)
        for priority in ("low", "normal", "high")
    ]
    ids = await submit_many(sql, messages)
    await start_worker(note, worker_concurrency=1)
    for message_id in ids:
        await settled(sql, message_id)
    assert order == [f"{priority} {n}" for priority in ("high", "normal", "low") for n in range(3)]


async def test_low_is_not_starved_by_an_endless_supply_of_high(
    sql: Connection, start_worker: StartWorker, agents: Any
) -> None:
    order: list[str] = []

    @agent("order")
    async def note(context: Context, request: str) -> None:
        order.append(request)

    await agents(note)
    low = await submit(sql, "low", agent="order", priority="low")
    high = await submit_many(sql, [{"message": "high", "priority": "high", "agent": "order"} for _ in range(40)])
    await start_worker(note, worker_concurrency=1)
    for message_id in (low, *high):
        await settled(sql, message_id)
    assert order.index("low") == 15  # every 16th claim begins with low


async def test_a_paused_queue_is_left_alone_until_it_is_resumed(sql: Connection, start_worker: StartWorker) -> None:
    @agent("other", queue="other")
    async def other(context: Context, request: str) -> str:
        return request

    await start_worker(echo, other, queues=("default", "other"))
    await sql.fetchval("select treadle.pause('default')")
    paused = await submit(sql, "paused", agent="echo")
    assert (await run(sql, "not paused", agent="other"))["state"] == "completed"  # it looked at both queues
    assert (await look(sql, paused))["state"] == "queued"
    await sql.fetchval("select treadle.pause('default', false)")
    assert (await settled(sql, paused))["result"] == "paused"


async def test_a_worker_leaves_queues_alone_that_are_not_its_own(sql: Connection, start_worker: StartWorker) -> None:
    @agent("other", queue="other")
    async def other(context: Context, request: str) -> str:
        return request

    first = await start_worker(echo, other)
    foreign = await submit(sql, "x", agent="other")
    assert (await run(sql, "mine", agent="echo"))["worker_id"] == first.worker_id
    assert (await look(sql, foreign))["state"] == "queued"
    second = await start_worker(echo, other, queues=("other",))
    assert (await settled(sql, foreign))["worker_id"] == second.worker_id


async def test_delayed_messages_run_when_they_are_due(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker()
    late = await submit(sql, "late", delay_seconds=0.4)
    later = await submit(sql, "in a thread", delay_seconds=0.3, thread_id="t")
    never = await submit(sql, "never", delay_seconds=1000)
    assert (await look(sql, late))["hold"] == "delay"
    for message_id in (late, later):
        message = await settled(sql, message_id)
        assert message["state"] == "completed"
        assert message["started_at"] >= message["run_at"]
    assert (await look(sql, never))["hold"] == "delay"


async def test_with_every_hint_lost_everything_happens_by_polling(sql: Connection, settings: Settings) -> None:
    failing = {"fail_times": 1}
    async with working(sql, settings, echo, listen_database_url=closed_port(str(settings.database_url))) as worker:
        assert (await run(sql, "alone"))["state"] == "completed"
        ids = await submit_many(
            sql,
            [
                {"message": "one", "thread_id": "t"},
                {"message": "two", "thread_id": "t", "metadata": failing},
                {"message": "three", "thread_id": "t", "delay_seconds": 0.1},
            ],
        )
        for message_id in ids:
            assert (await settled(sql, message_id))["state"] == "completed"
        assert not worker.ready


# How it stops


async def test_a_stopping_worker_lets_its_messages_end_and_takes_no_more(sql: Connection, settings: Settings) -> None:
    wait, waiting, release = gate()
    async with working(sql, settings, wait, worker_concurrency=5) as worker:
        ids = await submit_many(sql, [{"message": str(n), "agent": "gate"} for n in range(3)])
        await until(lambda: asyncio.sleep(0, len(waiting) == 3))
        worker.stop()
        late = await submit(sql, "late", agent="gate")
        release.set()
        for message_id in ids:
            message = await settled(sql, message_id)
            assert (message["state"], message["attempt"], message["failures"]) == ("completed", 1, 0)
        await until(lambda: workers(sql), lambda found: found == [])
    assert (await look(sql, late))["state"] == "queued"
    assert "late" not in waiting


@pytest.mark.parametrize("how", ["second stop", "grace is over"])
async def test_what_does_not_end_in_time_is_handed_back_and_ends_on_another_worker(
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

    async with working(sql, settings, slow, shutdown_grace=1000 if how == "second stop" else 0.1) as worker:
        message_id = await submit(sql, "x", agent="slow", max_attempts=1, thread_id="t")
        await happens(running)
        worker.stop()
        if how == "second stop":
            worker.stop()
        message = await settled(sql, message_id, "queued")
        assert (message["attempt"], message["failures"], message["losses"]) == (1, 0, 0)
        retry = (await log(sql, message_id))[-1]
        assert retry.type == "retry"
        assert retry.data["error"] == "The worker was stopped."
        await until(lambda: workers(sql), lambda found: found == [])
    other = await start_worker(slow)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["worker_id"]) == ("completed", 2, other.worker_id)
    assert await types(sql, message_id) == ["queued", "started", "chunk", "retry", "started", "chunk", "done"]
    assert await text(sql, message_id) == "attempt 2"


async def test_what_a_claim_brings_after_the_second_stop_is_handed_back_at_once(
    sql: Connection, dsn: str, settings: Settings
) -> None:
    wait, waiting, _ = gate()
    blocker = await asyncpg.connect(dsn)
    try:
        async with working(sql, settings, wait, shutdown_grace=1000) as worker:
            async with blocker.transaction():
                await blocker.execute("lock table treadle.leases in exclusive mode")
                message_id = await submit(sql, "x", agent="gate")
                blocked = (
                    "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%claim(%'"
                )
                await until(lambda: sql.fetchval(blocked))
                worker.stop()
                worker.stop()
            await until(lambda: workers(sql), lambda found: found == [])
    finally:
        await blocker.close()
    message = await look(sql, message_id)
    assert (message["state"], message["failures"], message["losses"]) == ("queued", 0, 0)
    assert waiting == []


async def test_a_message_cancelled_while_its_worker_stops_is_cancelled(sql: Connection, settings: Settings) -> None:
    wait, waiting, _ = gate()
    async with working(sql, settings, wait) as worker:
        message_id = await submit(sql, "x", agent="gate")
        await until(lambda: asyncio.sleep(0, waiting))
        worker.stop()
        await sql.fetchval("select treadle.cancel($1)", message_id)
        assert (await settled(sql, message_id))["state"] == "cancelled"


async def test_a_worker_that_never_found_its_database_can_be_stopped(settings: Settings) -> None:
    worker = Worker(settings, closed_port(str(settings.database_url)), Registry(settings, [echo]))
    task = asyncio.create_task(worker.run())
    await asyncio.wait({task}, timeout=0.1)  # it tries
    worker.stop()
    await asyncio.wait_for(task, 20)


# What it says of itself


async def test_a_worker_beats_and_says_goodbye(sql: Connection, settings: Settings) -> None:
    wait, waiting, release = gate()
    row = "select * from treadle.worker_overview where worker_id = $1"
    async with working(sql, settings, wait, worker_concurrency=7, queues=("default", "spare")) as worker:
        first = await sql.fetchrow(row, worker.worker_id)
        assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
        assert (first["queues"], first["concurrency"], first["in_flight"]) == (["default", "spare"], 7, 0)
        await submit_many(sql, [{"message": "x", "agent": "gate"}] * 2)
        await until(lambda: asyncio.sleep(0, len(waiting) == 2))
        later = await until(
            lambda: sql.fetchrow(row, worker.worker_id), lambda found: found["heartbeat_at"] > first["heartbeat_at"]
        )
        assert later["in_flight"] == 2
        assert later["started_at"] == first["started_at"]
        release.set()
    assert await workers(sql) == []


async def test_a_worker_whose_loop_is_blocked_is_late_not_dead(
    sql: Connection, settings: Settings, start_worker: StartWorker
) -> None:
    frozen, thaw = threading.Event(), threading.Event()
    beside = threading.Event()

    @agent("freeze")
    async def freeze(context: Context, request: str) -> str:
        frozen.set()
        assert thaw.wait(30)  # blocks the loop: what an agent must not do
        return request

    @agent("beside")
    async def neighbour(context: Context, request: str) -> str:
        beside.set()
        await context.emit("before")
        while not thaw.is_set():
            await asyncio.sleep(0.01)
        await context.emit(" and after")
        return request

    impatient = msgspec.structs.replace(
        settings, worker_timeout=0.5, heartbeat_interval=0.1, poll_interval=0.1, worker_concurrency=5
    )
    with working_apart(impatient, freeze, neighbour) as worker:
        await until(lambda: workers(sql), lambda found: worker.worker_id in found)
        late = await submit(sql, "late", agent="beside")
        await happens(beside)
        blocking = await submit(sql, "blocking", agent="freeze")
        await happens(frozen)
        janitor = await start_worker(
            echo,
            **{name: getattr(impatient, name) for name in ("worker_timeout", "heartbeat_interval", "poll_interval")},
            queues=("spare",),
        )
        # Long enough for a janitor that beats steadily to have reaped it three times.
        steady = "select beating_since < now() - interval '1.5 seconds' from treadle.workers where worker_id = $1"
        try:
            await until(lambda: sql.fetchval(steady, janitor.worker_id))
            silence = "select silent_seconds from treadle.worker_overview where worker_id = $1"
            assert await sql.fetchval(silence, worker.worker_id) < 0.5
            assert (await look(sql, late))["state"] == "processing"
        finally:
            thaw.set()
        for message_id in (late, blocking):
            message = await settled(sql, message_id)
            assert (message["state"], message["attempt"], message["losses"]) == ("completed", 1, 0)
        assert await text(sql, late) == "before and after"


# Losses


async def test_a_claim_whose_answer_was_lost_is_given_back(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.heartbeat.CLAIM_GRACE", 0.1)
    deprived = await start_worker(echo, queues=("spare",))
    message_id = await submit(sql, "x")
    claim = "select count(*) from treadle.claim($1, array['default'], 10, 60)"
    assert await sql.fetchval(claim, deprived.worker_id) == 1
    message = await settled(sql, message_id, "queued")
    assert (message["attempt"], message["failures"], message["losses"]) == (1, 0, 0)
    assert (await log(sql, message_id))[-1].data["error"] == "The answer to the claim was lost."
    await start_worker(echo)
    assert (await settled(sql, message_id))["attempt"] == 2


@pytest.mark.parametrize("where", ["the same worker", "another worker"])
@pytest.mark.parametrize("way", ["emits", "returns", "fails", "is silent"])
async def test_an_attempt_whose_message_was_taken_away_writes_nothing_and_is_stopped(
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

    first = await start_worker(twice)
    message_id = await submit(sql, "x", agent="twice", thread_id="t")
    await happens(running)
    if where == "another worker":
        first.stop()
        other = await start_worker(twice)
    async with sql.transaction():
        assert await sql.fetchval(TAKE_AWAY, message_id)
        await sql.execute("notify treadle_work, 'default'")  # who takes it next does so before any heartbeat
    await settled(sql, message_id, "processing")
    stolen.set()
    await happens(stopped)
    second.set()
    message = await settled(sql, message_id)
    assert (message["result"], message["attempt"], message["losses"], message["failures"]) == ("second", 2, 1, 0)
    assert message["worker_id"] == (first if where == "the same worker" else other).worker_id
    assert await types(sql, message_id) == ["queued", "started", "retry", "started", "chunk", "done"]


async def test_an_agent_that_only_emits_does_not_hang_its_worker_when_its_lease_is_lost(
    sql: Connection, settings: Settings
) -> None:
    running = threading.Event()

    @agent("babbling")
    async def babbling(context: Context, request: str) -> str:
        while context.attempt == 1:
            await context.emit("x" * 1000)
            running.set()
        return "second"

    # It looks at nothing on its own, so that the answer to an append is what tells it.
    with working_apart(settings, babbling, echo, poll_interval=1000, heartbeat_interval=1000) as worker:
        await until(lambda: workers(sql), lambda found: worker.worker_id in found)
        message_id = await submit(sql, "x", agent="babbling")
        await happens(running)
        await until(lambda: sql.fetchval(TAKE_AWAY, message_id))
        assert (await run(sql, "next", agent="echo"))["result"] == "next"
        assert (await settled(sql, message_id))["result"] == "second"


async def test_the_messages_of_a_vanished_worker_go_on_elsewhere(
    sql: Connection, start_worker: StartWorker, agents: Any
) -> None:
    await agents()
    message_id = await submit(sql, "x")
    # A worker on a host that is gone: it beat once, has no listener, and its claim is never finished.
    who = "'gone', 'host', 1, array['default'], 1, now(), null"
    await sql.fetch(f"select * from treadle.heartbeat({who}, '{{}}', '{{}}', 0.5, 60, 5)")
    assert await sql.fetchval("select count(*) from treadle.claim('gone', array['default'], 10, 60)") == 1
    await start_worker(echo, worker_timeout=0.5, heartbeat_interval=0.1)
    message = await settled(sql, message_id)
    assert (message["state"], message["attempt"], message["losses"]) == ("completed", 2, 1)
    assert (await log(sql, message_id))[2].data["error"] == "The worker was lost."
    assert "gone" not in await workers(sql)


async def test_connections_killed_in_the_middle_of_streams_lose_nothing(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.heartbeat.CLAIM_GRACE", 1.0)
    words = " ".join(f"word{n}" for n in range(40))
    for _ in range(2):
        await start_worker(echo)
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
        seen = await until(lambda: sql.fetchval(events), lambda found, seen=seen: found > seen + 50)
        assert await sql.fetchval(kill) > 0
    for message_id in ids:
        message = await settled(sql, message_id)
        assert (message["state"], message["failures"], message["losses"]) == ("completed", 0, 0)
        assert message["result"] == words
        assert await text(sql, message_id) == words
        assert (await types(sql, message_id)).count("done") == 1
    assert await sql.fetchval("select count(*) from treadle.leases") == 0


async def test_a_connection_that_dies_under_history_is_no_failure_of_the_agent(
    sql: Connection, dsn: str, start_worker: StartWorker
) -> None:
    ready, go = asyncio.Event(), asyncio.Event()

    @agent("remember")
    async def remember(context: Context, request: str) -> Any:
        ready.set()
        await go.wait()
        return [turn.message for turn in await context.history()]

    await start_worker(remember, echo)
    await run(sql, "one", agent="echo", thread_id="t")
    message_id = await submit(sql, "two", agent="remember", thread_id="t", max_attempts=1)
    await happens(ready)
    blocker = await asyncpg.connect(dsn)
    kill = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and wait_event_type = 'Lock' and query like '%m.body as message%'"
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


async def test_the_janitor_purges_what_is_past_retention(
    sql: Connection, dsn: str, settings: Settings, start_worker: StartWorker
) -> None:
    async with working(sql, settings, echo):
        old = [await run(sql, "alone"), await run(sql, "in a thread", thread_id="t")]
        dead = await run(sql, "dead", metadata={"delay_ms": "no number"})
        open_one = await submit(sql, "open", thread_id="open", delay_seconds=10_000_000)
    assert dead["state"] == "failed"
    # Eight days go by.
    await sql.execute(f"alter database {dsn.rpartition('/')[2]} set treadle.clock_shift = '8 days'")
    await start_worker(echo)
    await until(lambda: sql.fetchval("select count(*) from treadle.messages"), lambda found: found == 2)
    assert await look(sql, dead["message_id"])
    assert await look(sql, open_one)
    for message in old:
        assert (
            await sql.fetchval("select count(*) from treadle.events where message_id = $1", message["message_id"]) == 0
        )
    assert [row["thread_id"] for row in await sql.fetch("select thread_id from treadle.threads")] == ["open"]
    recent = await run(sql, "recent")
    assert recent["state"] == "completed"
