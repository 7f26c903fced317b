"""The views: what a person with psql sees, and what the API answers from."""

from typing import Any

from tests.support.sql_client import Loom


async def rows(loom: Loom, view: str, order: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await loom.sql.fetch(f"select * from treadle.{view} order by {order}")]


async def queue(loom: Loom, name: str = "default") -> dict[str, Any]:
    return dict(await loom.sql.fetchrow("select * from treadle.queue_overview where queue = $1", name))


async def test_queue_overview_counts_by_state(loom: Loom) -> None:
    await loom.register({"agent": "other", "queue": "side"})
    for outcome in ("completed", "rejected", "error"):
        await loom.submit(thread_id="t")
        await loom.run(outcome=outcome)
    await loom.cancel(await loom.submit())
    await loom.submit(priority="high")
    await loom.claim()
    await loom.submit_many({}, {"priority": "low"}, {"thread_id": "t"}, {"delay_seconds": 9}, {"agent": "other"})
    states = ("queued", "processing", "completed", "failed", "cancelled", "ready", "paused")
    found = await queue(loom)
    assert [found[state] for state in states] == [5, 1, 1, 1, 1, 2, False]
    await loom.sql.execute("select treadle.pause('side')")
    found = await queue(loom, "side")
    assert [found[state] for state in states] == [1, 0, 0, 0, 0, 1, True]


async def test_queue_overview_tells_the_age_of_the_oldest_that_is_ready(loom: Loom) -> None:
    assert (await queue(loom))["oldest_seconds"] is None
    await loom.submit(priority="high")
    await loom.shift(100)
    await loom.submit()
    assert 100 <= (await queue(loom))["oldest_seconds"] < 200
    await loom.claim()
    assert 0 <= (await queue(loom))["oldest_seconds"] < 100


async def test_queue_overview_tells_how_fast_they_go(loom: Loom) -> None:
    """Over the last full minute, and the mean over five; the same after the counters were folded."""
    await loom.submit_many(*[{}] * 4)
    claims = await loom.claim(4)
    await loom.shift(50)
    await loom.finish(claims[0])
    await loom.finish(claims[1], outcome="rejected")
    await loom.finish(claims[2], outcome="error")  # not over yet
    await loom.finish(claims[3], outcome="released")
    await loom.shift(85)
    for _ in range(2):
        found = await queue(loom)
        assert found["finished_per_minute"] == 2
        assert 50 <= found["mean_seconds"] < 60
        await loom.sql.execute("select treadle.fold_counters()")
    await loom.shift(200)
    found = await queue(loom)
    assert found["finished_per_minute"] == 0
    assert 50 <= found["mean_seconds"] < 60
    await loom.shift(1000)
    await loom.sql.execute("select treadle.fold_counters()")
    assert (await queue(loom))["mean_seconds"] is None


async def test_thread_overview(loom: Loom) -> None:
    await loom.register({"agent": "typed", "input": {}})
    for outcome in ("completed", "rejected"):
        await loom.submit(thread_id="t")
        await loom.run(outcome=outcome)
    await loom.cancel(await loom.submit(thread_id="t"))
    running = await loom.submit(thread_id="t")
    await loom.claim()
    await loom.submit(thread_id="t")
    await loom.submit("x" * 300, thread_id="t", delay_seconds=9)
    await loom.submit({"a": 1}, thread_id="u", agent="typed")
    t, u = await rows(loom, "thread_overview", "thread_id")
    states = ("message_count", "queued", "processing", "completed", "failed", "cancelled")
    assert [t[state] for state in states] == [6, 2, 1, 1, 1, 1]
    assert [u[state] for state in states] == [1, 1, 0, 0, 0, 0]
    assert (t["turn"], t["last_message_preview"]) == (running, "x" * 200)
    assert (u["last_message_preview"], u["metadata"]) == ('{"a": 1}', {})
    assert t["created_at"] < t["last_activity"] < u["last_activity"] == u["created_at"]


async def test_message_overview(loom: Loom) -> None:
    inside, alone = await loom.submit("in", thread_id="t"), await loom.submit("out", metadata={"a": 1})
    await loom.run(1)
    first, second = await rows(loom, "message_overview", "message_id")
    assert (first["message_id"], first["thread_id"], first["user_message"], first["ord"]) == (inside, "t", "in", 1)
    assert (first["state"], first["result"], first["usage"]) == ("completed", "answer", {"tokens": 7})
    assert (second["message_id"], second["thread_id"], second["metadata"]) == (alone, None, {"a": 1})
    assert (second["state"], second["hold"], second["result"]) == ("queued", None, None)


async def test_dead_letters(loom: Loom) -> None:
    first = await loom.submit("one", thread_id="t")
    await loom.run(outcome="rejected", error="No.")
    second = await loom.submit("two", max_attempts=1)
    await loom.run(outcome="error", error="Oh.")
    found = await rows(loom, "dead_letters", "dlq_id")
    names = ("queue", "message_id", "reason", "attempts", "thread_id", "agent", "user_message", "traceback")
    assert [[row[name] for name in names] for row in found] == [
        ["default", first, "No.", 1, "t", "echo", "one", "Traceback ..."],
        ["default", second, "Oh.", 1, None, "echo", "two", "Traceback ..."],
    ]
    await loom.redrive(first)
    assert [row["message_id"] for row in await rows(loom, "dead_letters", "dlq_id")] == [second]


async def test_worker_overview(loom: Loom) -> None:
    await loom.submit_many({}, {})
    (claim,) = await loom.claim(1)
    await loom.beat("w", claim)
    await loom.beat("idle")
    await loom.shift(7)
    idle, w = await rows(loom, "worker_overview", "worker_id")
    assert (w["worker_id"], w["host"], w["pid"], w["queues"], w["concurrency"]) == ("w", "host", 1, ["default"], 10)
    assert (w["in_flight"], idle["in_flight"]) == (1, 0)
    assert 7 <= w["silent_seconds"] < 60
