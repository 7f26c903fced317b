"""A failed attempt is repeated after a backoff, or after the time that its agent names, until it is a dead letter."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.config import Settings
from service.db.pool import Connection
from service.worker.agent_filter import LOOK_SECONDS, AgentFilter
from service.worker.outcome import backoff
from tests.support.fixture_types import StartWorker
from tests.support.messages import dead_letter, log, overview, run, settled, submit, submit_many, types
from tests.support.waiting import until
from treadle import Context, RetryAfter, agent


async def test_a_failed_attempt_is_tried_again_after_a_backoff(sql: Connection, start_worker: StartWorker) -> None:
    @agent("moody")
    async def moody(context: Context, request: str) -> str:
        await context.emit(f"attempt {context.attempt}")
        if context.attempt < 3:
            raise ValueError("not yet")
        return "at last"

    await start_worker(moody)
    message = await run(sql, "x", agent="moody")
    assert (message["state"], message["attempt"], message["failures"]) == ("completed", 3, 2)
    assert message["error"] is None
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == [
        "queued",
        *["started", "chunk", "retry"] * 2,
        "started",
        "chunk",
        "done",
    ]
    assert [entry.data["attempt"] for entry in entries if entry.type == "started"] == [1, 2, 3]
    assert [entry.data["index"] for entry in entries if entry.type == "chunk"] == [0, 0, 0]
    for attempt, entry in enumerate((entry for entry in entries if entry.type == "retry"), 1):
        assert entry.data["attempt"] == attempt
        assert entry.data["error"] == "ValueError: not yet"
        delay = datetime.fromisoformat(entry.data["retry_at"]) - entry.created_at
        assert timedelta(0) <= delay <= timedelta(seconds=0.05 * 2**attempt)


async def test_the_settings_determine_the_backoff(sql: Connection, start_worker: StartWorker) -> None:
    @agent("broken")
    async def broken(context: Context, request: str) -> str:
        raise ValueError

    await start_worker(broken, retry_base_seconds=1_000_000, retry_max_seconds=1_000_000)
    message_id = await submit(sql, "x", agent="broken")
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    entry = (await log(sql, message_id))[-1]
    delay = datetime.fromisoformat(entry.data["retry_at"]) - entry.created_at
    assert timedelta(seconds=1) < delay < timedelta(seconds=1_000_000)  # less than a second: once in a million


def test_the_backoff_doubles_up_to_its_limit_with_full_jitter() -> None:
    settings = Settings(retry_base_seconds=1, retry_max_seconds=10)
    for failures, most in ((0, 1), (1, 2), (3, 8), (4, 10), (5000, 10)):
        delays = [backoff(failures, settings) for _ in range(2000)]
        assert 0 <= min(delays) < most * 0.1
        assert most * 0.9 < max(delays) <= most


async def test_after_max_attempts_it_is_a_dead_letter_with_reason_attempts_and_traceback(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("broken")
    async def broken(context: Context, request: str) -> str:
        raise ValueError(f"broken for the {context.attempt}. time")

    await start_worker(broken)
    message = await run(sql, "x", agent="broken", max_attempts=2)
    assert (message["state"], message["attempt"], message["failures"]) == ("failed", 2, 2)
    assert message["error"] == "ValueError: broken for the 2. time"
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == ["queued", "started", "retry", "started", "error"]
    assert entries[-1].data["state"] == "failed"
    assert entries[-1].data["error"] == message["error"]
    letter = await dead_letter(sql, message["message_id"])
    assert (letter["queue"], letter["agent"], letter["attempts"]) == ("default", "broken", 2)
    assert letter["reason"] == message["error"]
    assert "in broken\n    raise ValueError(" in letter["traceback"]


async def test_the_agents_max_attempts_apply_unless_the_message_names_them(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("once", max_attempts=1)
    async def once(context: Context, request: str) -> str:
        raise ValueError

    await start_worker(once)
    assert (await run(sql, "x", agent="once"))["attempt"] == 1
    assert (await run(sql, "x", agent="once", max_attempts=2))["attempt"] == 2


async def test_retry_after_sets_the_delay(sql: Connection, start_worker: StartWorker) -> None:
    @agent("later")
    async def later(context: Context, request: str) -> str:
        if context.attempt == 1:
            raise RetryAfter(0.25)
        return "now"

    await start_worker(later)
    message = await run(sql, "x", agent="later")
    entry = (await log(sql, message["message_id"]))[2]
    assert datetime.fromisoformat(entry.data["retry_at"]) - entry.created_at == timedelta(seconds=0.25)
    assert entry.data["error"] == "Asked to be retried after 0.25 seconds."
    assert message["started_at"] >= entry.created_at + timedelta(seconds=0.25)
    assert message["result"] == "now"


@pytest.mark.parametrize("seconds", [1e300, float("inf"), float("nan"), -1.0])
async def test_retry_after_with_an_odd_number_is_still_a_retry(
    seconds: float, sql: Connection, start_worker: StartWorker
) -> None:
    @agent("later")
    async def later(context: Context, request: str) -> str:
        raise RetryAfter(seconds, "the reason")

    await start_worker(later)
    message_id = await submit(sql, "x", agent="later", max_attempts=2)
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    assert (await log(sql, message_id))[2].data["error"] == "the reason"


@pytest.mark.parametrize("limit", ["message", "agent", "settings"])
async def test_an_attempt_that_takes_too_long_fails_and_names_its_timeout(
    limit: str, sql: Connection, start_worker: StartWorker
) -> None:
    ended = asyncio.Event()

    @agent("slow", timeout=1 if limit == "agent" else None)
    async def slow(context: Context, request: str) -> str:
        await context.emit("partial")
        if context.attempt > 1:
            return "quick"
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    await start_worker(slow, **({"processing_timeout": 1} if limit == "settings" else {}))
    message = await run(sql, "x", agent="slow", **({"timeout_seconds": 1} if limit == "message" else {}))
    assert (message["state"], message["result"], message["failures"]) == ("completed", "quick", 1)
    entries = await log(sql, message["message_id"])
    assert [entry.type for entry in entries] == ["queued", "started", "chunk", "retry", "started", "chunk", "done"]
    assert entries[3].data["error"] == "TimeoutError: the attempt took longer than 1 seconds"
    assert ended.is_set()


async def test_a_timeout_error_of_the_agent_is_an_ordinary_failure(sql: Connection, start_worker: StartWorker) -> None:
    @agent("impatient")
    async def impatient(context: Context, request: str) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    await start_worker(impatient)
    assert (await run(sql, "x", agent="impatient", max_attempts=1))["error"] == "TimeoutError"


async def test_a_message_that_another_worker_can_handle_is_left_to_it(
    sql: Connection, start_worker: StartWorker
) -> None:
    """Both claim from one queue. The worker with the agent has no place, until the other one has met its message."""
    gate = asyncio.Event()

    @agent("elsewhere")
    async def elsewhere(context: Context, request: str) -> str:
        if request == "first":
            await gate.wait()
        return "found"

    await start_worker(elsewhere, worker_concurrency=1, poll_interval=60.0)
    first = await submit(sql, "first", agent="elsewhere")
    await until(lambda: types(sql, first), lambda found: "started" in found)
    ignorant = await start_worker(poll_interval=60.0)
    await run(sql, "x", agent="echo")
    await until(lambda: not ignorant.is_claiming)
    second = await submit(sql, "second", agent="elsewhere")
    await until(lambda: types(sql, second), lambda found: "retry" in found)
    retry = (await log(sql, second))[2]
    assert retry.data["error"] == "This worker has no agent 'elsewhere'."
    assert datetime.fromisoformat(retry.data["retry_at"]) == retry.created_at  # at once
    await until(lambda: sql.fetchval("select lane from treadle.messages where message_id = $1", second))
    for _ in range(5):
        assert (await run(sql, "x", agent="echo"))["result"] == "x"  # it passes over the other message
    assert await types(sql, second) == ["queued", "started", "retry"]
    gate.set()
    assert (await settled(sql, second))["result"] == "found"
    assert (await types(sql, second)).count("started") == 2


async def test_messages_stay_with_a_worker_that_the_other_one_does_not_replace(
    sql: Connection, start_worker: StartWorker
) -> None:
    """The other worker has the agent, and serves one tenant only: a pause comes before each further try."""

    @agent("elsewhere")
    async def elsewhere(context: Context, request: str) -> str:
        return "found"

    await sql.execute("select treadle.create_tenant('acme')")
    await start_worker(elsewhere, tenants=["acme"])
    await start_worker()
    message_id = await submit(sql, "x", agent="elsewhere")
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    retry = (await log(sql, message_id))[2]
    assert datetime.fromisoformat(retry.data["retry_at"]) > retry.created_at


async def test_agents_are_left_to_other_workers_for_as_long_as_these_are_there() -> None:
    now = 0.0
    others = {"b", "key"}
    asked: list[str] = []

    async def is_replaced(name: str) -> bool:
        asked.append(name)
        return name in others

    agents = AgentFilter(["a", "b", "c"], is_replaced, lambda: now)
    assert await agents.agents() is None
    assert not await agents.leaves("unknown", "unknown")
    assert await agents.agents() is None
    assert await agents.leaves("b", "b")
    assert await agents.leaves("c", "key")
    assert await agents.leaves("b", "b")
    assert await agents.agents() == ["a"]
    assert asked == ["unknown", "b", "key"]
    now += LOOK_SECONDS
    others.remove("key")
    assert await agents.agents() == ["a", "c"]
    now += LOOK_SECONDS
    others.remove("b")
    found = await agents.agents()
    assert found is None
    assert asked == ["unknown", "b", "key", "b", "key", "b"]


async def test_a_message_for_an_unknown_agent_is_deferred_without_a_failure(
    sql: Connection, start_worker: StartWorker, register_agents: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @agent("elsewhere")
    async def elsewhere(context: Context, request: str) -> str:
        return "found"

    await register_agents(elsewhere)
    caplog.set_level("WARNING", "service.worker.attempt")
    ignorant = await start_worker()
    message_id, other_id = await submit_many(sql, [{"message": "x", "agent": "elsewhere", "max_attempts": 1}] * 2)
    await until(lambda: types(sql, message_id), lambda found: found.count("retry") >= 2)
    assert (await log(sql, message_id))[2].data["error"] == "This worker has no agent 'elsewhere'."
    assert (await overview(sql, message_id))["failures"] == 0
    warned = [vars(record)["agent"] for record in caplog.records if "has no agent" in record.message]
    assert warned == ["elsewhere"]  # once, however often it is deferred
    assert await sql.fetchval("select treadle.cancel($1)", other_id) in {"cancelled", "requested"}
    assert (await settled(sql, other_id))["state"] == "cancelled"
    await start_worker(elsewhere)
    ignorant.stop()
    assert (await settled(sql, message_id))["result"] == "found"
