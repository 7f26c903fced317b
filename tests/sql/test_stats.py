"""Statistics: they agree with what happened, exact in counts and about right in lengths of time."""

import datetime
from typing import Any

import pytest

from tests.support.low_water import FILL_MESSAGES, buffers
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

COUNTS = ("submitted", "completed", "failed", "retried", "cancelled", "lost")


async def stats(client: SqlClient, **where: Any) -> dict[str, Any]:
    """The rows of minutes, added up."""
    await client.sql.execute("select treadle.fold_counters()")
    condition = " and ".join(f"{name} = '{value}'" for name, value in {"seconds": 60, **where}.items())
    sums = ", ".join(f"coalesce(sum({name}), 0)::bigint as {name}" for name in COUNTS)
    row = await fetch_row(
        client.sql,
        f"select {sums}, sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens, sum(cost) as cost,"
        " sum((select sum(u) from unnest(waits) u)) as waits, sum((select sum(u) from unnest(runs) u)) as runs,"
        " sum((select sum(u) from unnest(first_chunks) u)) as first_chunks"
        f" from treadle.stat_rows where {condition}",
    )
    return dict(row)


async def test_every_end_of_an_attempt_is_counted_once(sql_client: SqlClient) -> None:
    """Of each agent by itself: submits, ends, retries, losses, usage and lengths of time."""
    await sql_client.register({"agent": "other", "queue": "default"})
    await sql_client.submit_many(*[{}] * 6, {"agent": "other"})
    claims = await sql_client.claim(7)
    usage = {"input_tokens": 10, "output_tokens": 2.5, "cost_usd": 0.25, "model": "m"}
    await sql_client.finish(*claims[:2], usage=usage)
    await sql_client.finish(claims[2], outcome="rejected", usage=None)
    await sql_client.finish(claims[3], outcome="error", delay=0.0, usage={"input_tokens": "many"})
    await sql_client.append((claims[4], claims[4].last_seq + 1, ["a chunk"]))
    await sql_client.finish(claims[4], first_seq=claims[4].last_seq + 2, chunks=["another"], usage=None)
    await sql_client.finish(claims[6], chunks=["all at once"], usage=None)  # of the other agent
    await sql_client.finish(claims[5], outcome="lost", delay=0.0, usage=None)
    await sql_client.sql.execute("select treadle.admit_due()")
    (again,) = [claim for claim in await sql_client.claim(9) if claim.message_id == claims[5].message_id]
    await sql_client.cancel(await sql_client.submit())
    found = await stats(sql_client, agent="echo")
    assert [found[name] for name in COUNTS] == [7, 3, 1, 2, 1, 1]
    assert (found["input_tokens"], found["output_tokens"], found["cost"]) == (20, 5, 0.5)
    # Each message waits once, however often it is tried.
    assert (found["waits"], found["runs"], found["first_chunks"]) == (6, 6, 1)
    other = await stats(sql_client, agent="other")
    assert [other[name] for name in COUNTS] == [1, 1, 0, 0, 0, 0]
    assert other["first_chunks"] == 1
    assert await stats(sql_client, agent="echo", seconds=3600) == found
    await sql_client.finish(again, usage=None)
    after = await stats(sql_client, agent="echo")
    assert (after["completed"], after["waits"], after["runs"]) == (4, 6, 7)
    # A redrive and a purge are no end of an attempt.
    assert (await stats(sql_client, agent="echo")) == after
    await sql_client.redrive(claims[2].message_id)
    await sql_client.sql.execute("select treadle.purge(0, 0, null)")
    assert (await stats(sql_client, agent="echo")) == after


async def test_percentiles_are_about_right(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("""
        insert into treadle.counters (tenant, queue, agent, slot, runs)
        select 'default', 'default', 'echo', one.slot, array[treadle._bucket(seconds)]
        from (select treadle._slot(treadle.clock()) as slot offset 0) one, generate_series(1, 100) seconds""")
    await sql_client.sql.execute("select treadle.fold_counters()")
    row = await fetch_row(sql_client.sql, "select run_p50, run_p95, run_p99, wait_p50 from treadle.stats limit 1")
    assert 40 <= row["run_p50"] <= 60
    assert 85 <= row["run_p95"] <= 120
    assert row["run_p95"] <= row["run_p99"] <= 120
    assert row["wait_p50"] is None


async def test_old_rows_are_deleted_and_read_in_steps(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("""
        insert into treadle.stat_rows (tenant, seconds, at, queue, agent, completed)
        select 'default', s.seconds, date_trunc('hour', treadle.clock()) - d * interval '1 day', 'default', 'echo',
            d + 1
        from generate_series(0, 9) d
        cross join (values (60), (3600)) s (seconds);
        insert into treadle.stat_rows (tenant, seconds, at, queue, agent)
        values ('default', 3600, treadle.clock() - interval '401 days', 'default', 'echo')""")
    read = "select at, name, completed from treadle.read_stats(null, $1, $2, $3, by => 'agent')"
    now = await sql_client.sql.fetchval("select treadle.clock()")
    days = await sql_client.sql.fetch(read, now - datetime.timedelta(days=9.5), now, 86_400)
    assert sum(row["completed"] for row in days) == sum(range(1, 11))
    minutes = await sql_client.sql.fetch(read, now - datetime.timedelta(hours=20), now, 60)
    assert [(row["name"], row["completed"]) for row in minutes] == [("echo", 1)]
    assert (
        await sql_client.sql.fetch(read.replace("null,", "'acme',"), now - datetime.timedelta(hours=20), now, 60) == []
    )
    hour = now.replace(minute=0, second=0, microsecond=0)
    part = [hour - datetime.timedelta(minutes=minutes) for minutes in (690, 570)]
    await sql_client.sql.execute(
        "insert into treadle.stat_rows (tenant, seconds, at, queue, agent, completed)"
        " values ('default', 60, $1::timestamptz + interval '5 minutes', 'default', 'late', 7)",
        part[0],
    )
    hours = await sql_client.sql.fetch(read, *part, 3600)
    assert [row["completed"] for row in hours] == [7]  # of the part of the first hour that is asked for
    await sql_client.sql.execute("delete from treadle.stat_rows where agent = 'late'")
    assert await sql_client.sql.fetchval("select treadle.purge_stats()") == 3
    assert await sql_client.sql.fetchval("select count(*) from treadle.stat_rows where seconds = 60") == 8


@pytest.mark.new_database
@pytest.mark.parametrize("call", ["select * from treadle.read_stats(null, now() - interval '1 hour', now())"])
async def test_reading_them_touches_no_message(sql_client: SqlClient, call: str) -> None:
    await sql_client.submit()
    await sql_client.run()
    await sql_client.sql.execute("select treadle.fold_counters()")
    before = await buffers(sql_client, call)
    await sql_client.sql.execute(FILL_MESSAGES)
    assert await buffers(sql_client, call) <= before + 5
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")
