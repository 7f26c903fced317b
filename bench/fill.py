"""Many messages: through treadle.submit_many, or by plain inserts with the same effect, which are faster."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

from bench.sample import BODY

BATCH_MESSAGES = 2_000
WRITER_COUNT = 2

# The server builds the array of messages that a client would send.
SUBMIT = """
    select count(*) from treadle.submit_many((
        select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('message_id', treadle.uuid7(), 'message', $1::text,
            'agent', 'noop', 'thread_id', $2::text || case when $3::integer > 0 then (n % $3)::text end,
            'delay_seconds', $4::float8)))
        from generate_series($5::integer, $6::integer - 1) n), notify => true, autocommit => true)"""

INSERT_QUEUED = """
    with numbered as (
        select treadle.uuid7() as id, treadle.clock() as now, nextval('pgmq.q_default_normal_msg_id_seq') as lane_id
        from generate_series(1, $1::integer)
    ), messages as (
        insert into treadle.messages (tenant, message_id, queue, lane, lane_id, agent, priority, rank, state,
            max_attempts, timeout_seconds, created_at, run_at, body)
        select 'default', id, 'default', 'normal', lane_id, 'noop', 'normal', 1, 'queued', 3, 60, now, now,
            to_jsonb($2::text)
        from numbered
    ), counted as (
        insert into treadle.counters (tenant, queue, slot, queued)
        values ('default', 'default', treadle._slot(treadle.clock()), $1)
    ), logged as (
        insert into treadle.events (tenant, message_id, seq, type, created_at)
        select 'default', id, 1, 'queued', now from numbered
    )
    insert into pgmq.q_default_normal (msg_id, vt, enqueued_at, message) overriding system value
    select lane_id, now, now, jsonb_build_object('message_id', id, 'thread_id', null, 'agent', 'noop')
    from numbered order by lane_id"""

INSERT_FINISHED = """
    with numbered as (
        select treadle.uuid7() as id, treadle.clock() as now from generate_series(1, $1::integer)
    ), messages as (
        insert into treadle.messages (tenant, message_id, queue, agent, priority, rank, state, attempt, max_attempts,
            timeout_seconds, last_seq, created_at, run_at, started_at, completed_at, worker_id, body, result)
        select 'default', id, 'default', 'noop', 'normal', 1, 'completed', 1, 3, 60, 3, now, now, now, now, 'fill',
            to_jsonb($2::text), '"ok"' from numbered
    ), counted as (
        insert into treadle.counters (tenant, queue, slot, completed) values ('default', 'default', '-infinity', $1)
    )
    insert into treadle.events (tenant, message_id, seq, type, data, created_at)
    select 'default', id, seq, type, data, now from numbered,
        (values (1, 'queued', null), (2, 'started', '{"attempt": 1}'::jsonb), (3, 'done', null)) e (seq, type, data)"""

INSERT_EVENTS = """
    insert into treadle.events (tenant, message_id, seq, type, data, created_at)
    select 'default', m.id, seq, 'chunk',
        jsonb_build_object('type', 'content', 'chunk', left($2::text, 20), 'index', seq - 2), m.now
    from (
        select treadle.uuid7() as id, treadle.clock() as now from generate_series(1, $1::integer / 1000)
    ) m, generate_series(2, 1001) seq"""


async def submit(sql: Any, count: int, *, thread: str, threads: int, start: int = 0) -> None:
    """Submit `count` messages by this connection, the first to thread number `start`; see `queued`."""
    await sql.fetchval(SUBMIT, BODY, thread if threads else None, threads, None, start, start + count)


async def queued(
    dsn: str,
    count: int,
    *,
    thread: str | None = None,
    threads: int = 0,
    delay_seconds: float | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> None:
    """Submit `count` messages; with `threads`, spread over so many threads, named `thread` and a number."""
    name = thread if threads else None
    # One writer for threads: two would wait for each other's rows.
    await _split_among_writers(
        dsn,
        count,
        1 if threads else WRITER_COUNT,
        lambda sql, start, end: sql.fetchval(SUBMIT, BODY, name, threads, delay_seconds, start, end),
        tell,
    )


async def queued_at_once(dsn: str, count: int, tell: Callable[[int], None] = lambda _: None) -> None:
    """Write `count` messages as if they had been submitted."""
    await _insert(dsn, INSERT_QUEUED, count, tell, writers=1)  # two would draw ids in turns and scatter the lane's rows


async def finished(dsn: str, count: int, tell: Callable[[int], None] = lambda _: None) -> None:
    """Write `count` messages as if they had been submitted, claimed and finished."""
    await _insert(dsn, INSERT_FINISHED, count, tell, writers=WRITER_COUNT)


async def events(dsn: str, count: int, tell: Callable[[int], None] = lambda _: None) -> None:
    """Write `count` chunks, a thousand of each message, into the log; the messages themselves are missing."""
    await _insert(dsn, INSERT_EVENTS, count, tell, writers=WRITER_COUNT)


async def fold_and_vacuum(sql: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Fold the counters, vacuum and analyze, as the janitor and autovacuum would have done by now."""
    await sql.execute("select treadle.fold_counters()")
    await sql.execute("vacuum (analyze)")


async def _insert(dsn: str, statement: str, count: int, tell: Callable[[int], None], *, writers: int) -> None:
    await _split_among_writers(
        dsn, count, writers, lambda sql, start, end: sql.execute(statement, end - start, BODY), tell, batch=20_000
    )


async def _split_among_writers(
    dsn: str,
    count: int,
    writers: int,
    write: Callable[[Any, int, int], Any],
    tell: Callable[[int], None],
    batch: int = BATCH_MESSAGES,
) -> None:
    starts = iter(range(0, count, batch))
    connections = [
        await asyncpg.connect(dsn.replace("treadle@", "bench@"), command_timeout=120) for _ in range(writers)
    ]

    async def work(sql: Any) -> None:
        for start in starts:
            await write(sql, start, min(count, start + batch))
            tell(start)

    try:
        await asyncio.gather(*(work(sql) for sql in connections))
    finally:
        await asyncio.gather(*(sql.close() for sql in connections))
