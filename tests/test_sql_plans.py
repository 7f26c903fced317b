"""Query plans: no statement of the hot functions reads a table from end to end.

auto_explain reports the plan of every statement inside the functions as they run, on a database with some thousands of
messages; what is asserted are the plans PostgreSQL really took.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest
from loom import Loom, weaving

from service.db.pool import Connection
from service.queues.model import Claim

GROWING = ("messages", "threads", "thread_log", "events", "leases", "idempotency", "q_default")
THREADS, FINISHED, WAITING, RUNNING = 1500, 900, 2500, 300


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator[Loom]:
    async with weaving(sql, dsn) as loom:
        yield loom


@pytest.fixture
async def claims(loom: Loom) -> list[Claim]:
    """A database at work: threads, finished, waiting, delayed, failed messages; returns the running ones."""
    await loom.submit_many(*[{"thread_id": f"t{n}"} for n in range(FINISHED)])
    done = await loom.claim(FINISHED)
    await loom.finish(*done[: FINISHED // 2], chunks=["x"] * 5)
    await loom.finish(*done[FINISHED // 2 :], outcome="error", chunks=["x"], delay=600)
    for priority in ("high", "normal", "low"):
        await loom.submit_many(*[{"thread_id": f"t{n % THREADS}", "priority": priority} for n in range(WAITING // 3)])
        await loom.submit_many(*[{"priority": priority}] * 500)
    await loom.submit_many(*[{"delay_seconds": 600}] * 1000)
    await loom.sql.execute(
        "insert into treadle.idempotency select 'default', n::text, '', null, now() from generate_series(1, 2000) n"
    )
    claims = await loom.claim(RUNNING)
    await loom.sql.execute("analyze")
    return claims


class Plans:
    """The plans of what runs inside `watch()`."""

    def __init__(self, loom: Loom) -> None:
        self.loom = loom
        self.heard: list[str] = []

    async def __aenter__(self) -> "Plans":
        sql = self.loom.sql
        await sql.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
            "set auto_explain.log_level = 'notice'"
        )
        sql.add_log_listener(self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.loom.sql.execute("set auto_explain.log_min_duration = -1")
        await asyncio.sleep(0)  # listeners are called from the loop
        self.loom.sql.remove_log_listener(self._hear)

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        self.heard.append(message.message)

    def whole_tables(self) -> list[str]:
        """Plans that read a table that grows from end to end."""
        table = "|".join(GROWING)
        return [plan for plan in self.heard if re.search(rf"Seq Scan on ({table})", plan)]

    def reads(self, index: str) -> bool:
        return any(re.search(rf"Scan (Backward )?(using|on) {index}", plan) for plan in self.heard)


async def test_the_watch_sees_what_it_is_for(loom: Loom, claims: list[Claim]) -> None:
    async with Plans(loom) as plans:
        await loom.sql.execute("select from treadle.messages where agent = 'nobody'")
        await loom.sql.execute("do $$ begin perform from treadle.threads where metadata <> '{}'; end $$")
    assert len(plans.whole_tables()) == 2


async def test_submit(loom: Loom, claims: list[Claim]) -> None:
    for thread in ("t7", "new", None):
        async with Plans(loom) as plans:
            await loom.submit_many({"thread_id": thread}, {"thread_id": thread, "priority": "high"}, patient=False)
            await loom.submit_many({"thread_id": thread}, max_queue_size=10**6)
            await loom.sql.execute("select treadle.submit_once('k', '', '[{\"message\": \"x\"}]')")
            await loom.submit(thread_id=thread)
        assert plans.whole_tables() == []
    assert plans.heard


@pytest.mark.parametrize("reverse", [False, True])
async def test_claim(loom: Loom, claims: list[Claim], reverse: bool) -> None:
    async with Plans(loom) as plans:
        assert len(await loom.claim(1, reverse=reverse)) == 1
        assert len(await loom.claim(20, reverse=reverse)) == 20
    assert plans.whole_tables() == []
    assert plans.reads("q_default_low_pkey" if reverse else "q_default_high_pkey")


async def test_a_lane_peek_stops_at_what_it_wants(loom: Loom, claims: list[Claim]) -> None:
    """However long the lane: it reads from the head, in the order of the primary key."""
    async with Plans(loom) as plans:
        await loom.claim(5)
    (peek,) = [plan for plan in plans.heard if "array_agg(h.msg_id" in plan]
    assert re.search(r"Limit.*LockRows.*Index Scan using q_default_high_pkey", peek, re.DOTALL), peek
    assert "Sort" not in peek.partition("Limit")[2], peek


async def test_append(loom: Loom, claims: list[Claim]) -> None:
    async with Plans(loom) as plans:
        for patient in (True, False):
            await loom.append((claims[0], 3, ["x"] * 20), patient=patient)
            assert set(await loom.append(*[(claim, 3, ["x"]) for claim in claims[1:30]], patient=patient)) == {"ok"}
    assert plans.whole_tables() == []
    assert plans.reads("leases_pkey")


@pytest.mark.parametrize("outcome", ["completed", "error", "rejected", "released"])
async def test_finish(loom: Loom, claims: list[Claim], outcome: str) -> None:
    async with Plans(loom) as plans:
        await loom.finish(claims[0], outcome=outcome, chunks=["x"])
        await loom.finish(*claims[1:20], outcome=outcome, patient=False)
    assert plans.whole_tables() == []


async def test_the_next_of_a_thread_is_found_by_its_index(loom: Loom, claims: list[Claim]) -> None:
    mine = [claim for claim in claims if claim.thread]
    async with Plans(loom) as plans:
        await loom.finish(mine[0])
    assert plans.reads("messages_waiting")


async def test_the_doors(loom: Loom, claims: list[Claim]) -> None:
    held = await loom.submit(thread_id="t3")
    failed = claims[0].message_id
    await loom.finish(claims[0], outcome="rejected")
    async with Plans(loom) as plans:
        await loom.cancel(claims[1].message_id)
        await loom.cancel(held)
        await loom.redrive(failed)
    assert plans.whole_tables() == []


async def test_the_heartbeat(loom: Loom, claims: list[Claim]) -> None:
    async with Plans(loom) as plans:
        await loom.beat("w", *claims[:50])
        await loom.shift(40)
        await loom.beat("w", *claims[:50], grace=1000)
        await loom.beat("v", grace=0)
    assert plans.whole_tables() == []
    assert plans.reads("leases_worker")


async def test_what_is_due_is_found_by_its_index(loom: Loom, claims: list[Claim]) -> None:
    async with Plans(loom) as plans:
        assert await loom.sql.fetchval("select treadle.admit_due(100)") == 0
        await loom.shift(700)
        assert await loom.sql.fetchval("select treadle.admit_due(20)") == 20
    assert plans.whole_tables() == []
    assert plans.reads("messages_due")


async def test_reading(loom: Loom, claims: list[Claim]) -> None:
    ids = [claim.message_id for claim in claims[:20]]
    threads = [claim.thread for claim in claims if claim.thread][:20]
    async with Plans(loom) as plans:
        rows = await loom.sql.fetch("select * from treadle.read_events($1, $2, 200)", ids, [1] * len(ids))
        assert len(rows) == 20
        await loom.sql.fetch("select * from treadle.read_thread_events($1, $2, 200)", threads, [0] * len(threads))
    assert plans.whole_tables() == []
    assert plans.reads(r"events_\d+_pkey")
    assert plans.reads(r"events_\d+_thread_thread_pos_idx")


async def test_only_the_partition_of_the_message_is_read(loom: Loom, claims: list[Claim]) -> None:
    await loom.shift(86400 * 20)
    await loom.sql.execute("select treadle.ensure_partitions(30)")
    async with Plans(loom) as plans:
        await loom.sql.execute("set auto_explain.log_analyze = on")
        await loom.sql.fetch("select * from treadle.read_events($1, '{0}', 200)", [claims[0].message_id])
    (plan,) = [plan for plan in plans.heard if "events_" in plan]
    read = [line for line in plan.splitlines() if re.search(r"Scan using events_\w+_pkey", line)]
    assert [("never executed" in line) for line in read].count(False) == 1, plan
    await loom.shift(0)


async def test_looking_at_one(loom: Loom, claims: list[Claim]) -> None:
    held = await loom.submit(thread_id="t3")
    async with Plans(loom) as plans:
        for message_id in (claims[0].message_id, held):
            await loom.sql.fetch("select * from treadle.message_overview where message_id = $1", message_id)
            await loom.sql.fetch("select treadle.queue_position($1)", message_id)
        await loom.sql.fetch("select * from treadle.thread_overview where thread_id = 't3' and tenant = 'default'")
        thread = (await loom.thread("t3"))["id"]
        await loom.sql.fetch(
            "select * from treadle.message_overview where thread = $1 and ord > 0 order by ord limit 50", thread
        )
    (idle,) = [plan for plan in plans.whole_tables() if "thread_overview" in plan] or [None]
    assert [plan for plan in plans.whole_tables() if plan is not idle] == []
    assert plans.reads("messages_ord")


async def test_threads_are_listed_newest_first_by_their_index(loom: Loom, claims: list[Claim]) -> None:
    async with Plans(loom) as plans:
        await loom.sql.fetch(
            "select * from treadle.thread_overview where tenant = 'default' order by last_activity desc, thread desc limit 50"
        )
    assert plans.reads("threads_recent")


async def test_the_janitor_s_rounds(loom: Loom, claims: list[Claim]) -> None:
    """Mending reads the table in stretches, purging its old end."""
    async with Plans(loom) as plans:
        row = await loom.sql.fetchrow("select * from treadle.mend_lanes(null, 100)")
        await loom.sql.fetchrow("select * from treadle.mend_lanes($1, 100)", row and row["last"])
        await loom.sql.execute("select treadle.purge(24, 24)")
    assert plans.whole_tables() == []
