"""Durable steps: a retry or a redrive receives the results of finished steps and runs only the others."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.db.pool import Connection, Database
from service.leases.model import Append, Appended, EventToAppend
from service.worker.event_buffer import EventBuffer
from service.worker.outcome import StopReason
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, submit_many, types
from tests.support.sql_client import SqlClient
from tests.support.waiting import LIMIT_SECONDS, wait_for
from treadle import Context, Rejected, agent

Calls = list[str]


def counted(calls: Calls, name: str, answer: Any = None) -> Callable[[], Awaitable[Any]]:
    """A step that records that it ran."""

    async def step() -> Any:
        calls.append(name)
        return name if answer is None else answer

    return step


async def test_a_retry_runs_only_unfinished_steps(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("five")
    async def five(context: Context, text: str) -> list[str]:
        found = []
        for n in range(5):
            if n == 3 and context.attempt == 1:
                raise RuntimeError("after the third")
            found.append(await context.step(f"step {n}", counted(calls, f"{n}")))
        return found

    await start_worker(five)
    row = await run(sql, "x", agent="five")
    assert (row["state"], row["attempt"], row["result"]) == ("completed", 2, ["0", "1", "2", "3", "4"])
    assert calls == ["0", "1", "2", "3", "4"]
    assert await types(sql, row["message_id"]) == [
        *["queued", "started", "step", "step", "step", "retry"],
        *["started", "step", "step", "done"],
    ]
    entries = await log(sql, row["message_id"])
    assert entries[2].data == {"name": "step 0", "result": "0"}


async def test_a_step_is_in_the_log_before_the_agent_continues(
    sql: Connection, database: Database, start_worker: StartWorker
) -> None:
    seen: list[int] = []

    @agent("looks")
    async def looks(context: Context, text: str) -> None:
        await context.step("one", counted([], "x"))
        seen.append(await database.fetchval("select count(*) from treadle.events where type = 'step'"))

    await start_worker(looks)
    assert (await run(sql, "x", agent="looks"))["state"] == "completed"
    assert seen == [1]


async def test_a_redriven_message_keeps_its_steps(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("once", max_attempts=1)
    async def once(context: Context, text: str) -> Any:
        answer = await context.step("paid", counted(calls, "paid", {"price": 3}))
        if context.attempt == 1:
            raise Rejected("not yet")
        return answer

    await start_worker(once)
    failed = await run(sql, "x", agent="once")
    assert failed["state"] == "failed"
    await sql.fetchval("select treadle.redrive($1)", failed["message_id"])
    assert (await settled(sql, failed["message_id"], "completed"))["result"] == {"price": 3}
    assert calls == ["paid"]


async def test_steps_run_side_by_side(sql: Connection, start_worker: StartWorker) -> None:
    together = threading.Barrier(3, timeout=LIMIT_SECONDS)

    @agent("parallel")
    async def parallel(context: Context, text: str) -> list[int]:
        # Sync functions that wait for each other: each has a thread, and the loop keeps running.
        return list(await asyncio.gather(*(context.step(f"{n}", together.wait) for n in range(3))))

    await start_worker(parallel)
    row = await run(sql, "x", agent="parallel")
    assert (row["state"], sorted(row["result"])) == ("completed", [0, 1, 2])


async def test_a_sync_agent_has_steps(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("sync")
    def sync(context: Any, text: str) -> str:
        def slow() -> str:
            calls.append("ran")
            return text.upper()

        answer: str = context.step("slow", slow)
        if context.attempt == 1:
            raise RuntimeError("again")
        return answer

    await start_worker(sync)
    row = await run(sql, "x", agent="sync")
    assert (row["state"], row["result"], calls) == ("completed", "X", ["ran"])


async def test_a_failed_step_runs_again(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("fails")
    async def fails(context: Context, text: str) -> str:
        async def step() -> str:
            calls.append("x")
            if len(calls) == 1:
                raise RuntimeError("at first")
            return "well"

        return str(await context.step("it", step))

    await start_worker(fails)
    row = await run(sql, "x", agent="fails")
    assert (row["result"], calls) == ("well", ["x", "x"])


@pytest.mark.parametrize("name", ["", "x" * 201, "twice"])
async def test_steps_with_invalid_names_are_refused(sql: Connection, start_worker: StartWorker, name: str) -> None:
    @agent("refused", max_attempts=1)
    async def refused(context: Context, text: str) -> None:
        await context.step("twice", counted([], "x"))
        await context.step(name, counted([], "x"))

    await start_worker(refused)
    row = await run(sql, "x", agent="refused")
    assert row["state"] == "failed"
    assert "the name of a step has 1 to 200" in row["error"] or row["error"].startswith("ValueError: this attempt has")


async def test_an_agent_that_waits_for_a_step_is_cancelled_when_its_lease_is_lost(
    sql: Connection, start_worker: StartWorker
) -> None:
    """And its step is not in the log."""
    running, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent("zombie")
    async def zombie(context: Context, text: str) -> Any:
        try:
            running.set()
            await go.wait()
            return await context.step("it", counted([], "x"))
        finally:
            ended.set()

    await start_worker(zombie)
    message_id = await submit(sql, "x", agent="zombie")
    await wait_for(running)
    await sql.execute("update treadle.leases set lease = gen_random_uuid()")  # another worker holds it now
    go.set()
    await wait_for(ended)
    assert "step" not in await types(sql, message_id)


async def test_steps_within_steps_of_many_sync_agents(sql: Connection, start_worker: StartWorker) -> None:
    """Each runs in its agent's thread: no step waits for a thread that another step occupies."""

    @agent("nested")
    def nested(context: Any, text: str) -> Any:
        return context.step("outer", lambda: context.step("inner", lambda: text * 2))

    @agent("after")
    async def after(context: Context, text: str) -> Any:
        return await context.step("one", lambda: text)

    await start_worker(nested, after)
    ids = await submit_many(sql, [{"message": "x", "agent": "nested"}] * 40)
    for message_id in ids:
        assert (await settled(sql, message_id))["result"] == "xx"
    assert (await run(sql, "x", agent="after"))["result"] == "x"


async def test_a_step_that_was_not_appended_is_not_written_with_the_finish(sql_client: SqlClient) -> None:
    """The messages that it sent are not submitted, so the next attempt must run it again."""
    await sql_client.submit()
    claim = await sql_client.claim_one()

    class Writer:
        async def append(self, append: Append) -> Appended:
            await asyncio.Event().wait()
            raise AssertionError("never answered")

        def rest_after(self, seconds: float) -> float:
            return 0.0

    class Attempt:
        def stop(self, reason: StopReason | Exception) -> None:
            pass

    events = EventBuffer(claim, Writer(), Attempt())
    await events.put(EventToAppend("chunk", "{}"))
    saving = asyncio.create_task(events.save(EventToAppend("step", "{}", "[]")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(events.close())
    await asyncio.sleep(0)
    events._sender.cancel()  # type: ignore[union-attr]
    first_seq, unsent = await closing
    assert (first_seq, [event.type for event in unsent]) == (claim.last_seq + 1, ["chunk"])
    with pytest.raises(asyncio.CancelledError):
        await saving
