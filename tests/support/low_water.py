"""Tables with many dead rows, the sweep that moves the low-water marks, and the pages that a call reads."""

import json
from typing import Any

from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row
from tests.support.waiting import until

DEAD = 50_000
LOW = "select low from treadle.low_water where name = $1"
LANE = "q_default_normal"
FILL_LANE = f"""
    insert into pgmq.{LANE} (vt, enqueued_at, message) select now(), now(), '{{}}' from generate_series(1, {DEAD})"""
DRAW_LANE_IDS = f"""
    select max(nextval('pgmq.{LANE}_msg_id_seq')), max(nextval('pgmq.q_default_high_msg_id_seq')),
        max(nextval('pgmq.q_default_low_msg_id_seq'))
    from generate_series(1, 1500)"""
FILL_MESSAGES = """
    insert into treadle.messages (tenant, message_id, queue, agent, priority, rank, state, attempt, max_attempts,
            timeout_seconds, last_seq, created_at, run_at, started_at, completed_at, worker_id, body, result)
        select 'default', treadle.uuid7(), 'default', 'echo', 'normal', 1, 'completed', 1, 3, 60, 3, now(), now(),
            now(), now(), 'fill', '"x"', '"y"'
        from generate_series(1, 5000);
    analyze treadle.messages"""
FILL_COUNTERS = f"""
    insert into treadle.counters (tenant, queue, slot, completed)
    select 'default', 'default', '-infinity', 0 from generate_series(1, {DEAD})"""


async def sweep(sql_client: SqlClient) -> int:
    """Returns the lane's mark."""
    await sql_client.sql.execute("select treadle.sweep('infinity')")
    return await low(sql_client)


async def sweep_past(sql_client: SqlClient, lane_id: int) -> None:
    """One sweep notes the mark, a later one raises it, once all transactions that were open have ended."""
    await until(lambda: sweep(sql_client), lambda mark: mark > lane_id)


async def low(sql_client: SqlClient, name: str = LANE) -> int:
    return int(await sql_client.sql.fetchval(LOW, name))


async def fold_past(sql_client: SqlClient, counter: int) -> None:
    async def fold() -> int:
        await sql_client.sql.fetchval(f"select treadle.fold_counters({2 * DEAD})")
        return await low(sql_client, "counters")

    await until(fold, lambda mark: mark > counter)


async def buffers(sql_client: SqlClient, call: str, *args: Any) -> int:
    """The fewest pages of two calls in all their statements, which are rolled back: many changes in other databases let
    plans be made again."""
    found = []
    for _ in range(2):
        transaction = sql_client.sql.transaction()
        await transaction.start()
        try:
            await sql_client.sql.fetch(call, *args)  # plans are made
            found.append(await buffers_of(sql_client, call, *args))
        finally:
            await transaction.rollback()
    return min(found)


async def buffers_of(sql_client: SqlClient, call: str, *args: Any) -> int:
    """The pages that this call reads, in all its statements."""
    (explained,) = await fetch_row(sql_client.sql, f"explain (analyze, buffers, format json) {call}", *args)
    plan = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


async def fewest_buffers(sql_client: SqlClient, call: str, *args: Any) -> int:
    """The fewest pages of three calls, which are rolled back: a plan is made at first, and again after many changes in
    other databases."""
    found = []
    for _ in range(3):
        await sql_client.sql.execute("begin")
        found.append(await buffers_of(sql_client, call, *args))
        await sql_client.sql.execute("rollback")
    return min(found)


async def sweep_leases(sql_client: SqlClient) -> int:
    await sweep(sql_client)
    return await low(sql_client, "leases")
