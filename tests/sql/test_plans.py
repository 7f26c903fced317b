"""Query plans: no statement of the hot functions reads a big table from end to end.

auto_explain reports the plan of every statement, also inside functions, as it runs. So these tests assert the plans
that PostgreSQL used, on a database with some ten thousand messages.
"""

import contextlib
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.db.pool import Connection
from service.leases.model import Claim
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

pytestmark = pytest.mark.new_database

BIG = 50  # pages, from which on a table counts as big

FILL = """
    insert into treadle.threads (tenant, thread_id, created_at)
        select 'default', 'old' || n, now() from generate_series(1, 12000) n;
    insert into treadle.thread_turns (tenant, thread, last_ord, completed, last_activity)
        select 'default', id, 1, 1, now() - id * interval '1 second' from treadle.threads;
    insert into treadle.thread_log (tenant, thread, last_pos) select 'default', id, 3 from treadle.threads;
    insert into treadle.messages (tenant, message_id, thread, ord, queue, agent, priority, rank, state, max_attempts,
            timeout_seconds, last_seq, attempt, created_at, run_at, started_at, completed_at, body, result)
        select 'default', treadle.uuid7(), id, 1, 'default', 'echo', 'normal', 1, 'completed', 3, 60, 3, 1, now(),
            now(), now(), now(), to_jsonb(repeat('x', 100)), '1' from treadle.threads;
    insert into treadle.messages (tenant, message_id, queue, agent, priority, rank, state, hold, max_attempts,
            timeout_seconds, created_at, run_at, body)
        select 'default', treadle.uuid7(), 'default', 'echo', 'normal', 1, 'queued', 'delay', 3, 60, now(),
            now() + interval '600 seconds', '"x"' from generate_series(1, 3000);
    insert into treadle.events (tenant, message_id, seq, thread, thread_pos, type, created_at)
        select 'default', message_id, s, thread, case when thread is not null then s end, 'chunk', now()
        from treadle.messages, generate_series(1, 3) s;
    insert into treadle.idempotency select 'default', '', repeat(n::text, 20), '', null, now()
        from generate_series(1, 9999) n;
"""


@pytest.fixture
async def sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    async with contextlib.AsyncExitStack() as stack:
        sql_client = SqlClient(sql, dsn, stack)
        await sql_client.register()
        await sql.execute(FILL)
        for priority in ("high", "normal", "low"):
            await sql_client.submit_many(*[{"priority": priority}] * 2000)
            await sql_client.submit_many(*[{"thread_id": f"old{n % 300}", "priority": priority} for n in range(900)])
        yield sql_client


@pytest.fixture
async def claims(sql_client: SqlClient) -> list[Claim]:
    """Claims of some three thousand running messages."""
    claims = await sql_client.claim(3000)
    await sql_client.sql.execute("analyze")
    return claims


class Plans:
    """Collects the plans of the statements on this connection while it is entered."""

    def __init__(self, sql_client: SqlClient) -> None:
        self._sql = sql_client.sql
        self._big: set[str] = set()
        self._plans: list[str] = []

    async def __aenter__(self) -> "Plans":
        rows = await self._sql.fetch("select relname from pg_class where relkind = 'r' and relpages >= $1", BIG)
        self._big = {row["relname"] for row in rows}
        await self._sql.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
            "set auto_explain.log_level = 'notice'"
        )
        self._sql.add_log_listener(self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sql.execute("set auto_explain.log_min_duration = -1")
        await self._sql.execute("select")  # what was said before it has been heard
        self._sql.remove_log_listener(self._hear)

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        self._plans.append(message.message)

    @property
    def whole_tables(self) -> list[str]:
        """Plans that read a big table from end to end."""
        return [plan for plan in self._plans if self._big & set(re.findall(r"Seq Scan on (\w+)", plan))]

    @property
    def all_versions(self) -> list[str]:
        """Plans that read all versions of rows, or all rows, of a table whose rows change often."""
        changing = r"(leases|thread_turns|thread_log)\b"
        patterns = (rf"Bitmap Heap Scan on {changing}", rf"Index (Only )?Scan.* on {changing}.*\n(?!\s+Index Cond)")
        return [plan for plan in self._plans if any(re.search(pattern, plan) for pattern in patterns)]

    def reading(self, index: str) -> list[str]:
        """Plans that read this index (a regular expression)."""
        return [plan for plan in self._plans if re.search(rf"Scan (Backward )?(using|on) {index}", plan)]


async def test_a_plan_that_reads_a_whole_table_is_noticed(sql_client: SqlClient, claims: list[Claim]) -> None:
    async with Plans(sql_client) as plans:
        await sql_client.sql.execute("select from treadle.messages where agent = 'nobody'")
        await sql_client.sql.execute("do $$ begin perform from treadle.threads where metadata <> '{}'; end $$")
        await sql_client.sql.execute("select from treadle.messages order by message_id limit 1")
    assert len(plans.whole_tables) == 2
    assert len(plans.reading("messages_pkey")) == 1
    big = {
        "messages",
        "threads",
        "thread_turns",
        "thread_log",
        "idempotency",
        "leases",
        "q_default_high",
        "q_default_normal",
    }
    assert plans._big >= big, sorted(big - plans._big)


async def test_the_plans_of_a_worker(sql_client: SqlClient, claims: list[Claim]) -> None:
    async with Plans(sql_client) as plans:
        for first_lane in ("high", "normal", "low"):
            assert len(await sql_client.claim(1, first_lane=first_lane)) == 1
            assert len(await sql_client.claim(20, first_lane=first_lane)) == 20
    assert plans.whole_tables == []
    assert plans.reading("q_default_low_pkey")
    # A lane of any length is read from its head in key order, and no further than needed.
    (peek, *_) = [plan for plan in plans.reading("q_default_normal_pkey") if "array_agg(h.msg_id" in plan]
    assert re.search(r"Limit.*LockRows.*Index Scan using q_default_normal_pkey", peek, re.DOTALL), peek

    async with Plans(sql_client) as plans:
        for patient in (True, False):
            await sql_client.append((claims[0], 3, ["x"] * 20), patient=patient)
            assert set(await sql_client.append(*[(claim, 3, ["x"]) for claim in claims[1:30]], patient=patient)) == {
                "ok"
            }
    assert plans.whole_tables == []
    assert plans.reading("leases_pkey")

    in_threads = [claim for claim in claims[100:] if claim.thread]
    alone = [claim for claim in claims[100:] if not claim.thread]
    for n, outcome in enumerate(("completed", "error", "rejected", "released")):
        ending = in_threads[n * 10 : n * 10 + 10] + alone[n * 10 : n * 10 + 10]
        async with Plans(sql_client) as plans:
            await sql_client.finish(ending[0], outcome=outcome, chunks=["x"])
            await sql_client.finish(*ending[1:], outcome=outcome, patient=False)
        assert plans.whole_tables == [], outcome
        assert bool(plans.reading("messages_waiting")) == (outcome in ("completed", "rejected"))

    async with Plans(sql_client) as plans:
        await sql_client.heartbeat("w", *claims[:50], grace=1000)
        await sql_client.shift_clock(40)
        await sql_client.heartbeat("w", *claims[:50], grace=1000)
        await sql_client.heartbeat("v", grace=0)
    assert plans.whole_tables == []
    assert plans.reading("leases_order")


async def test_plans_made_beside_few_rows_with_many_dead_versions(sql_client: SqlClient) -> None:
    """An old snapshot keeps the versions: a plan that is right for the few rows would read all of them."""
    await sql_client.claim(3000)
    reader = await sql_client.connect()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        for table in ("leases", "thread_turns", "thread_log"):
            await sql_client.sql.execute(f"delete from treadle.{table} where thread is null or thread > 20")
            await sql_client.sql.execute(f"analyze treadle.{table}")
        worker = await sql_client.connect()
        async with Plans(worker) as plans:
            await worker.submit_many({"thread_id": "old1"}, {"thread_id": "old2", "priority": "high"}, {})
            claims = await worker.claim(20, first_lane="low")
            await worker.append(*[(claim, 3, ["x"]) for claim in claims])
            await worker.finish(*claims[1:], patient=False)
            await worker.finish(claims[0])
        assert plans.reading("leases_pkey")
        assert plans.all_versions == []


async def test_the_plans_of_a_client(sql_client: SqlClient, claims: list[Claim]) -> None:
    for thread in ("old7", "new", None):
        async with Plans(sql_client) as plans:
            await sql_client.submit_many(
                {"thread_id": thread}, {"thread_id": thread, "priority": "high"}, patient=False
            )
            await sql_client.submit_many({"thread_id": thread}, max_queue_size=10**6)
            held = await sql_client.submit(thread_id=thread)
        assert plans.whole_tables == [], thread
    await sql_client.submit(thread_id="calm")
    async with Plans(sql_client) as plans:
        await sql_client.submit_many({"thread_id": "calm"}, {"thread_id": "calm", "priority": "low"})
        searched = plans.reading("messages_waiting")
        await sql_client.submit_many({"thread_id": "calm", "priority": "high"})
    assert searched == []  # neither goes before the message with the turn
    assert plans.reading("messages_waiting")  # this one does
    await sql_client.submit(thread_id="old9")
    held = await sql_client.submit(thread_id="old9")
    failed = claims[0].message_id
    await sql_client.finish(claims[0], outcome="rejected")
    async with Plans(sql_client) as plans:
        await sql_client.sql.execute("select treadle.submit_once('k', '', '[{\"message\": \"x\"}]')")
        await sql_client.cancel(claims[1].message_id)
        await sql_client.cancel(held)
        await sql_client.redrive(failed)
        for message_id in (failed, held):
            await sql_client.sql.execute(f"select * from treadle.message_overview where message_id = '{message_id}'")
            await sql_client.sql.execute(f"select treadle.queue_position('{message_id}')")
        await sql_client.sql.execute(
            "select * from treadle.message_overview where thread = 9 and ord > 0 order by ord limit 5"
        )
        await sql_client.sql.execute("select treadle.queued_messages(100)")
    assert plans.whole_tables == []
    async with Plans(sql_client) as plans:
        await sql_client.sql.execute(
            "select * from treadle.thread_overview where tenant = 'default'"
            " order by last_activity desc, thread desc limit 50"
        )
        await sql_client.sql.execute("select treadle.delete_thread('old9')")
    assert plans.reading("thread_turns_recent")


async def test_the_plans_of_a_reader(sql_client: SqlClient, claims: list[Claim]) -> None:
    ids = [claim.message_id for claim in claims[:20]]
    threads = list(range(1, 21))
    async with Plans(sql_client) as plans:
        assert len(await sql_client.sql.fetch("select * from treadle.read_events($1, $2, 200)", ids, [1] * 20)) == 20
        await sql_client.sql.fetch("select * from treadle.read_events(null, $2, 200, $1)", threads, [0] * 20)
        assert len(await sql_client.sql.fetch("select * from treadle.grown_logs($1, null, $2)", ids, [1] * 20)) == 20
        await sql_client.sql.fetch("select * from treadle.grown_logs(null, $1, $2)", threads, [0] * 20)
    assert plans.whole_tables == []
    assert plans.reading(r"events_\d+_pkey")
    assert plans.reading(r"events_\d+_thread_thread_pos_idx")
    # Only the partition of the message is opened.
    await sql_client.shift_clock(86400 * 20)
    await sql_client.sql.execute("select treadle.ensure_partitions(30); set auto_explain.log_analyze = on")
    for call, which in (
        ("treadle.read_events($1, '{0}', 200)", ids[:1]),
        ("treadle.read_log($1, 0, 200, 1000000)", ids[0]),
    ):
        async with Plans(sql_client) as plans:
            assert await sql_client.sql.fetch(f"select * from {call}", which)
        (plan,) = plans.reading(r"events_\d+_pkey")
        read = re.findall(r"Scan on events_\w+ .*|Scan using events_\w+_pkey .*", plan)
        assert len(read) == 1, plan
        (removed,) = re.findall(r"Subplans Removed: (\d+)", plan)
        assert int(removed) >= 30


async def test_the_plans_of_a_janitor(sql_client: SqlClient, claims: list[Claim]) -> None:
    async with Plans(sql_client) as plans:
        assert await sql_client.sql.fetchval("select admitted from treadle.admit_due(100)") == 0
        await sql_client.shift_clock(700)
        assert await sql_client.sql.fetchval("select admitted from treadle.admit_due(20)") == 20
    assert plans.whole_tables == []
    assert plans.reading("messages_due")
    async with Plans(sql_client) as plans:
        row = await sql_client.sql.fetchrow("select * from treadle.mend_lanes(null, 100)")
        await sql_client.sql.fetchrow("select * from treadle.mend_lanes($1, 100)", row and row["last"])
        await sql_client.sql.fetchrow("select * from treadle.purge(24, 24)")
    assert plans.whole_tables == []
    assert plans.reading("thread_turns_recent")


async def test_a_finish_changes_no_index_of_messages(sql_client: SqlClient) -> None:
    """An indexed column that it changed would make it write to every index of the table."""
    await sql_client.submit_many(*[{}] * 5)
    claims = await sql_client.claim(5, first_lane="low")
    async with sql_client.sql.transaction():
        assert await sql_client.finish(*claims) == ["completed"] * 5
        updates = await fetch_row(
            sql_client.sql,
            "select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relid = 'treadle.messages'::regclass",
        )
    assert updates["n_tup_hot_upd"] == updates["n_tup_upd"] >= 5


async def test_a_claim_changes_no_index_of_a_lane(sql_client: SqlClient) -> None:
    """Its pages have room, and PGMQ's index on vt is dropped."""
    await sql_client.submit_many(*[{}] * 100)
    async with sql_client.sql.transaction():
        assert len(await sql_client.claim(100)) == 100
        updates = await fetch_row(
            sql_client.sql,
            "select sum(n_tup_upd) as n_tup_upd, sum(n_tup_hot_upd) as n_tup_hot_upd from pg_stat_xact_all_tables"
            " where schemaname = 'pgmq'",
        )
    assert updates["n_tup_hot_upd"] == updates["n_tup_upd"] >= 100
