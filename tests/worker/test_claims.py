"""Which messages a worker claims, how many at once, and in which order."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from service.agents.builtin.echo import echo
from service.config import Settings
from service.db.pool import Connection
from service.leases.model import Claimed
from service.worker.agent_filter import AgentFilter
from service.worker.claimer import Claimer
from service.worker.traces import NoTraces
from tests.support.agents import CountingAgent, gate_agent
from tests.support.fixture_types import StartWorker
from tests.support.messages import overview, run, settled, submit, submit_many
from tests.support.ports import with_closed_port
from tests.support.waiting import until
from tests.support.workers import never_replaced, running_worker
from treadle import Context, agent


async def in_flight(sql: Connection) -> dict[str, int]:
    rows = await sql.fetch("select worker_id, in_flight from treadle.worker_overview")
    return {row["worker_id"]: row["in_flight"] for row in rows}


async def test_a_worker_runs_worker_concurrency_messages_at_once(
    sql: Connection, start_worker: StartWorker, register_agents: Any
) -> None:
    counting = CountingAgent()
    await register_agents(counting.agent)
    ids = await submit_many(sql, [{"message": str(n), "agent": "count"} for n in range(10)])
    worker = await start_worker(counting.agent, worker_concurrency=3)
    await until(lambda: in_flight(sql), lambda found: found == {worker.worker_id: 3})
    await until(lambda: counting.running == 3)
    counting.release.set()
    for message_id in ids:
        assert (await settled(sql, message_id))["state"] == "completed"
    assert counting.most == 3


async def test_two_workers_share_a_queue(sql: Connection, start_worker: StartWorker) -> None:
    wait, waiting, release = gate_agent()
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
    """300 threads, 1,500 messages."""
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
        await submit_many(sql, [{"message": str(turn), "agent": "record", "thread_id": f"t{n}"} for n in range(300)])
    await until(
        lambda: sql.fetchval("select count(*) from treadle.messages where state = 'completed'"), (1500).__eq__, 60
    )
    assert together == []
    assert dict(order) == {f"t{n}": [0, 1, 2, 3, 4] for n in range(300)}
    # In the database: one attempt per message, both workers took part, and no two turns of a thread overlap.
    assert await sql.fetchval("select count(*) from treadle.messages where attempt = 1 and result = body") == 1500
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


async def test_high_goes_before_normal_before_low(
    sql: Connection, start_worker: StartWorker, register_agents: Any
) -> None:
    order: list[str] = []

    @agent("order")
    async def note(context: Context, request: str) -> None:
        order.append(request)

    await register_agents(note)
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
    sql: Connection, start_worker: StartWorker, register_agents: Any
) -> None:
    order: list[str] = []

    @agent("order")
    async def note(context: Context, request: str) -> None:
        order.append(request)

    await register_agents(note)
    low = await submit(sql, "low", agent="order", priority="low")
    high = await submit_many(sql, [{"message": "high", "priority": "high", "agent": "order"} for _ in range(40)])
    await start_worker(note, worker_concurrency=1)
    for message_id in (low, *high):
        await settled(sql, message_id)
    assert order.index("low") == 15  # every 16th claim begins with low


async def test_a_paused_queue_is_not_claimed_from_until_it_is_resumed(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("other", queue="other")
    async def other(context: Context, request: str) -> str:
        return request

    worker = await start_worker(echo, other, queues=("default", "other"))
    await sql.fetchval("select treadle.pause('default')")
    await until(lambda: not worker.is_claiming)
    paused = await submit(sql, "paused", agent="echo")
    assert (await run(sql, "not paused", agent="other"))["state"] == "completed"
    assert (await overview(sql, paused))["state"] == "queued"
    await sql.fetchval("select treadle.pause('default', false)")
    assert (await settled(sql, paused))["result"] == "paused"


async def test_a_worker_claims_only_from_its_own_queues(sql: Connection, start_worker: StartWorker) -> None:
    @agent("other", queue="other")
    async def other(context: Context, request: str) -> str:
        return request

    first = await start_worker(echo, other)
    foreign = await submit(sql, "x", agent="other")
    assert (await run(sql, "mine", agent="echo"))["worker_id"] == first.worker_id
    assert (await overview(sql, foreign))["state"] == "queued"
    second = await start_worker(echo, other, queues=("other",))
    assert (await settled(sql, foreign))["worker_id"] == second.worker_id


async def test_delayed_messages_run_when_they_are_due(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker()
    async with sql.transaction():  # until its end, no worker sees them
        late = await submit(sql, "late", delay_seconds=0.4)
        later = await submit(sql, "in a thread", delay_seconds=0.3, thread_id="t")
        never = await submit(sql, "never", delay_seconds=1000)
        assert (await overview(sql, late))["hold"] == "delay"
    for message_id in (late, later):
        message = await settled(sql, message_id)
        assert message["state"] == "completed"
        assert message["started_at"] >= message["run_at"]
    assert (await overview(sql, never))["hold"] == "delay"


async def test_without_any_hint_everything_happens_by_polling(sql: Connection, settings: Settings) -> None:
    failing = {"fail_times": 1}
    async with running_worker(
        sql, settings, echo, listen_database_url=with_closed_port(str(settings.database_url))
    ) as worker:
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


async def test_every_queue_is_the_first_in_its_turn_from_every_lane(settings: Settings) -> None:
    """However many queues there are: none starves beside one that is never empty, and no lane does."""
    begun: list[tuple[str, str]] = []

    class Store:
        async def claim(self, *, queues: Sequence[str], first_lane: str, **_: Any) -> Claimed:
            begun.append((first_lane, queues[0]))
            assert sorted(queues) == sorted(names)
            return Claimed([], 0)

    for quantity in (1, 2, 3, 16):
        names = [f"q{n}" for n in range(quantity)]
        own = msgspec.structs.replace(settings, queues=names)
        parts: Any = {"store": Store(), "attempts": SimpleNamespace(leases={}), "traces": NoTraces()}
        parts["agent_filter"] = AgentFilter((), never_replaced)
        claimer = Claimer(worker="w", settings=own, lease_seconds=60.0, work=asyncio.Event(), **parts)
        begun.clear()
        for _ in range(16 * quantity):
            await claimer._claim(1, 1)
        counts = Counter(begun)
        for name in names:
            assert [counts[lane, name] for lane in ("high", "normal", "low")] == [14, 1, 1]
