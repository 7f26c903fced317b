"""The views, from which the API answers and which people read with psql."""

from typing import Any

from tests.support.messages import id_of
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row


async def rows(sql_client: SqlClient, view: str, order: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await sql_client.sql.fetch(f"select * from treadle.{view} order by {order}")]


async def queue(sql_client: SqlClient, name: str = "default") -> dict[str, Any]:
    return dict(await fetch_row(sql_client.sql, "select * from treadle.queue_overview where queue = $1", name))


async def test_queue_overview_counts_by_state(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "other", "queue": "side"})
    for outcome in ("completed", "rejected", "error"):
        await sql_client.submit(thread_id="t")
        await sql_client.run(outcome=outcome)
    await sql_client.cancel(await sql_client.submit())
    await sql_client.submit(priority="high")
    await sql_client.claim()
    await sql_client.submit_many({}, {"priority": "low"}, {"thread_id": "t"}, {"delay_seconds": 9}, {"agent": "other"})
    states = ("queued", "processing", "completed", "failed", "cancelled", "ready", "paused")
    found = await queue(sql_client)
    assert [found[state] for state in states] == [5, 1, 1, 1, 1, 2, False]
    await sql_client.sql.execute("select treadle.pause('side')")
    found = await queue(sql_client, "side")
    assert [found[state] for state in states] == [1, 0, 0, 0, 0, 1, True]


async def test_queue_overview_has_the_age_of_the_oldest_ready_message(sql_client: SqlClient) -> None:
    assert (await queue(sql_client))["oldest_seconds"] is None
    await sql_client.submit(priority="high")
    await sql_client.shift_clock(100)
    await sql_client.submit()
    assert 100 <= (await queue(sql_client))["oldest_seconds"] < 200
    await sql_client.claim()
    assert 0 <= (await queue(sql_client))["oldest_seconds"] < 100


async def test_queue_overview_has_throughput_and_mean_time(sql_client: SqlClient) -> None:
    """Throughput of the last full minute, mean of the last five; both unchanged by folding the counters."""
    await sql_client.submit_many(*[{}] * 4)
    claims = await sql_client.claim(4)
    await sql_client.shift_clock(50)
    await sql_client.finish(claims[0])
    await sql_client.finish(claims[1], outcome="rejected")
    await sql_client.finish(claims[2], outcome="error")  # not over yet
    await sql_client.finish(claims[3], outcome="released")
    await sql_client.shift_clock(85)
    for _ in range(2):
        found = await queue(sql_client)
        assert found["finished_per_minute"] == 2
        assert 50 <= found["mean_seconds"] < 60
        await sql_client.sql.execute("select treadle.fold_counters()")
    await sql_client.shift_clock(200)
    found = await queue(sql_client)
    assert found["finished_per_minute"] == 0
    assert 50 <= found["mean_seconds"] < 60
    await sql_client.shift_clock(1000)
    await sql_client.sql.execute("select treadle.fold_counters()")
    assert (await queue(sql_client))["mean_seconds"] is None


async def test_thread_overview(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "typed", "input": {}})
    for outcome in ("completed", "rejected"):
        await sql_client.submit(thread_id="t")
        await sql_client.run(outcome=outcome)
    await sql_client.cancel(await sql_client.submit(thread_id="t"))
    running = await sql_client.submit(thread_id="t")
    await sql_client.claim()
    await sql_client.submit(thread_id="t")
    await sql_client.submit("x" * 300, thread_id="t", delay_seconds=9)
    await sql_client.submit({"a": 1}, thread_id="u", agent="typed")
    t, u = await rows(sql_client, "thread_overview", "thread_id")
    states = ("message_count", "queued", "processing", "completed", "failed", "cancelled")
    assert [t[state] for state in states] == [6, 2, 1, 1, 1, 1]
    assert [u[state] for state in states] == [1, 1, 0, 0, 0, 0]
    assert (t["turn"], t["last_message_preview"]) == (running, "x" * 200)
    assert (u["last_message_preview"], u["metadata"]) == ('{"a": 1}', {})
    assert t["created_at"] < t["last_activity"] < u["last_activity"] == u["created_at"]


async def test_message_overview(sql_client: SqlClient) -> None:
    inside = await sql_client.submit("in", thread_id="t", message_id=id_of(-2))
    alone = await sql_client.submit("out", metadata={"a": 1}, message_id=id_of(-1))
    await sql_client.run(1)
    first, second = await rows(sql_client, "message_overview", "message_id")
    assert (first["message_id"], first["thread_id"], first["user_message"], first["ord"]) == (inside, "t", "in", 1)
    assert (first["state"], first["result"], first["usage"]) == ("completed", "answer", {"tokens": 7})
    assert (second["message_id"], second["thread_id"], second["metadata"]) == (alone, None, {"a": 1})
    assert (second["state"], second["hold"], second["result"]) == ("queued", None, None)


async def test_dead_letters(sql_client: SqlClient) -> None:
    first = await sql_client.submit("one", thread_id="t")
    await sql_client.run(outcome="rejected", error="No.")
    second = await sql_client.submit("two", max_attempts=1)
    await sql_client.run(outcome="error", error="Oh.")
    found = await rows(sql_client, "dead_letters", "dlq_id")
    names = ("queue", "message_id", "reason", "attempts", "thread_id", "agent", "user_message", "traceback")
    assert [[row[name] for name in names] for row in found] == [
        ["default", first, "No.", 1, "t", "echo", "one", "Traceback ..."],
        ["default", second, "Oh.", 1, None, "echo", "two", "Traceback ..."],
    ]
    await sql_client.redrive(first)
    assert [row["message_id"] for row in await rows(sql_client, "dead_letters", "dlq_id")] == [second]


async def test_worker_overview(sql_client: SqlClient) -> None:
    await sql_client.submit_many({}, {})
    (claim,) = await sql_client.claim(1)
    await sql_client.heartbeat("w", claim)
    await sql_client.heartbeat("idle")
    await sql_client.shift_clock(7)
    idle, w = await rows(sql_client, "worker_overview", "worker_id")
    assert (w["worker_id"], w["host"], w["pid"], w["queues"], w["concurrency"]) == ("w", "host", 1, ["default"], 10)
    assert (w["in_flight"], idle["in_flight"]) == (1, 0)
    assert 7 <= w["silent_seconds"] < 60
