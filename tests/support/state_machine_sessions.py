"""The sessions of the state machine, and the queries by which it reads the database."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import asyncpg

from tests.support.sql_client import SqlClient, decode_jsonb
from tests.support.sql_model_rows import AGENTS, HOUR, RANKS

WORKERS = ("w0", "w1", "w2")
THREADS = ("a", "b", "c")
QUEUES = tuple(AGENTS.values())


class Sessions:
    """Connections that live longer than one example, and their event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, dsn: str) -> None:
        self.loop = loop
        self._dsn = dsn
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        self.watch = await self._connect()
        self.user = await self._connect()
        self.client = await self._connect("set lock_timeout = '30s'")
        self.janitor = await self._connect("set lock_timeout = '30s'")
        self.workers = {name: await self._connect("set lock_timeout = '30s'") for name in WORKERS}
        self.server_started = await self.watch.sql.fetchval("select pg_postmaster_start_time()")
        await self.client.register({"agent": "echo"}, {"agent": "other", "queue": "side"})

    async def look(self) -> list[list[asyncpg.Record]]:
        return [await self.watch.sql.fetch(query) for query in ("table treadle.violations", MESSAGE_ROWS, THREAD_ROWS)]

    async def shift_clock(self, hours: int) -> None:
        for sql_client in self.all:
            await sql_client.shift_clock(hours * HOUR)

    async def until_blocked(self, task: asyncio.Task[Any], sql_client: SqlClient) -> None:
        """Wait until the task waits for a lock, or its patience has ended."""
        blocked = asyncio.create_task(self.watch.until_blocked(sql_client))
        await asyncio.wait({task, blocked}, return_when=asyncio.FIRST_COMPLETED)
        if task.done() and isinstance(task.exception(), asyncpg.LockNotAvailableError):
            blocked.cancel()
            await asyncio.wait({blocked})
            return
        assert not task.done(), f"it should have waited: {task}"
        await blocked

    async def _connect(self, setting: str = "") -> SqlClient:
        connection = await asyncpg.connect(self._dsn)
        self._stack.push_async_callback(connection.close)
        await decode_jsonb(connection)
        await connection.execute(f"set plan_cache_mode = force_generic_plan; {setting}")
        return SqlClient(connection, self._dsn, self._stack)

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def all(self) -> list[SqlClient]:
        return [self.watch, self.user, self.client, self.janitor, *self.workers.values()]

    async def clean(self) -> None:
        """Delete all messages. Ids continue, so the low-water marks stay valid."""
        await self.watch.sql.execute(CLEAN)
        if await self.watch.sql.fetchval("select exists (select from treadle.queues where queue = 'late')"):
            await self.watch.sql.execute(DROP_LATE)
        for sql_client in self.all:
            await sql_client.sql.execute("reset treadle.clock_shift; select pg_advisory_unlock_all()")


TABLES = (
    "messages",
    "leases",
    "events",
    "threads",
    "thread_turns",
    "thread_log",
    "workers",
    "idempotency",
    "counters",
    "not_completed",
)
CLEAN = "; ".join(
    [
        *(f"delete from treadle.{table}" for table in TABLES),
        *(f"delete from pgmq.q_{queue}_{lane}" for queue in ("default", "side") for lane in (*RANKS, "dlq")),
        "update treadle.queues set paused = false where paused",
        "update treadle.low_water set low = 0 where name = 'due'",  # a time: the next example begins before it
        # The next example begins hours before: a sweep would take that for a clock that was set back, and let the
        # delays of messages that were sent more than five seconds ago end earlier.
        "delete from treadle.meta where name = 'clock_seen'",
    ]
)
DROP_LATE = """
    select pgmq.drop_queue('late_' || l) from unnest('{high,normal,low,dlq}'::text[]) l;
    delete from treadle.agents where agent = 'late';
    delete from treadle.queues where queue = 'late';
    delete from treadle.low_water where name like 'q_late_%';
    select treadle._generate_lane_functions()"""

# The committed rows, as other sessions see them.
MESSAGE_ROWS = """
    select m.message_id, m.lane, m.lane_id,
        o.state, o.hold, m.lane, o.thread_id, o.ord, o.aside, m.rank, o.agent, o.queue, o.priority,
        o.attempt, o.failures, o.losses, o.max_attempts, o.result, l.lease, l.worker_id, l.cancel_requested,
        (select array_agg(case when e.type = 'chunk' then e.data ->> 'chunk' else e.type end order by e.seq)
            from treadle.events e where e.message_id = o.message_id)
    from treadle.message_overview o join treadle.messages m using (message_id)
    left join treadle.leases l using (message_id)"""
THREAD_ROWS = """
    select thread_id, message_count, queued, processing, completed, failed, cancelled, turn
    from treadle.thread_overview"""
SEQUENCES = """{treadle.leases_id_seq, treadle.counters_id_seq, pgmq.q_default_high_msg_id_seq,
    pgmq.q_default_normal_msg_id_seq, pgmq.q_side_low_msg_id_seq}"""
# Chores that change nothing that a client sees.
CHORES = ("fold_counters(3)", "fold_counters()", "sweep()", "sweep('infinity')", "ensure_partitions()")
# Draws ids that no row gets, so that the low-water marks can rise, also above rows of a transaction that stays open.
DRAW_IDS = f"select nextval(s) from unnest('{SEQUENCES}'::text[]) s, generate_series(1, 10500)"
