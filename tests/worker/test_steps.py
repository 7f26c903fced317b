"""Durable steps: a retry or a redrive is given what finished steps returned, and pays only for the others."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest

from service.batching import Batcher
from service.db.pool import Connection
from service.leases.store import EventToAppend
from service.worker.event_buffer import Outbox
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, submit_many, types
from tests.support.waiting import wait_for
from treadle import Context, Rejected, agent

Calls = list[str]


def counted(calls: Calls, name: str, answer: Any = None) -> Callable[[], Awaitable[Any]]:
    """A step that notes that it ran."""

    async def step() -> Any:
        calls.append(name)
        return name if answer is None else answer

    return step


async def test_a_retry_runs_only_what_was_not_finished(sql: Connection, start_worker: StartWorker) -> None:
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


async def test_a_step_is_in_the_log_before_the_agent_goes_on(sql: Connection, start_worker: StartWorker) -> None:
    seen: list[int] = []

    @agent("looks")
    async def looks(context: Context, text: str) -> None:
        await context.step("one", counted([], "x"))
        seen.append(await sql.fetchval("select count(*) from treadle.events where type = 'step'"))

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


class Plan(msgspec.Struct):
    goals: list[str]


async def test_a_result_comes_back_as_its_type_in_every_attempt(sql: Connection, start_worker: StartWorker) -> None:
    got: list[Any] = []

    @agent("typed")
    async def typed(context: Context, text: str) -> None:
        async def plan() -> Plan:
            return Plan(["a"])

        got.append(await context.step("plan", plan))
        got.append(await context.step("nothing", counted([], "", answer=[])))
        got.append(await context.step("tuple", lambda: (1, "two")))
        if context.attempt == 1:
            raise RuntimeError("again")

    await start_worker(typed)
    assert (await run(sql, "x", agent="typed"))["state"] == "completed"
    assert got == [Plan(["a"]), [], [1, "two"]] * 2


async def test_none_is_a_result_too(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("nothing")
    async def nothing(context: Context, text: str) -> None:
        async def step() -> None:
            calls.append("x")

        assert await context.step("nothing", step) is None
        if context.attempt == 1:
            raise RuntimeError("again")

    await start_worker(nothing)
    assert (await run(sql, "x", agent="nothing"))["state"] == "completed"
    assert calls == ["x"]


async def test_steps_run_side_by_side(sql: Connection, start_worker: StartWorker) -> None:
    together = threading.Barrier(3, timeout=20)

    @agent("parallel")
    async def parallel(context: Context, text: str) -> list[int]:
        # Plain functions, which wait for each other: each has a thread, and the loop goes on.
        return list(await asyncio.gather(*(context.step(f"{n}", together.wait) for n in range(3))))

    await start_worker(parallel)
    row = await run(sql, "x", agent="parallel")
    assert (row["state"], sorted(row["result"])) == ("completed", [0, 1, 2])


async def test_a_sync_agent_has_steps(sql: Connection, start_worker: StartWorker) -> None:
    calls: Calls = []

    @agent("sync")
    def sync(context: Any, text: str) -> str:
        answer: str = context.step("slow", lambda: calls.append("ran") or text.upper())
        if context.attempt == 1:
            raise RuntimeError("again")
        return answer

    await start_worker(sync)
    row = await run(sql, "x", agent="sync")
    assert (row["state"], row["result"], calls) == ("completed", "X", ["ran"])


async def test_a_step_that_fails_is_tried_again(sql: Connection, start_worker: StartWorker) -> None:
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
async def test_what_is_no_step_is_refused(sql: Connection, start_worker: StartWorker, name: str) -> None:
    @agent("refused", max_attempts=1)
    async def refused(context: Context, text: str) -> None:
        await context.step("twice", counted([], "x"))
        await context.step(name, counted([], "x"))

    await start_worker(refused)
    row = await run(sql, "x", agent="refused")
    assert row["state"] == "failed"
    assert row["error"].startswith("ValueError: ")


async def test_a_result_that_is_too_large_is_refused(sql: Connection, start_worker: StartWorker) -> None:
    @agent("large", max_attempts=1)
    async def large(context: Context, text: str) -> None:
        await context.step("large", counted([], "", answer="x" * 2000))

    await start_worker(large, max_event_bytes=1000)
    row = await run(sql, "x", agent="large")
    assert "a step has at most 1000 bytes (MAX_EVENT_BYTES)" in row["error"]


async def test_who_waits_for_a_step_when_the_lease_is_lost_is_cancelled(
    sql: Connection, start_worker: StartWorker
) -> None:
    """And the zombie's step is in no log."""
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
    await sql.execute("update treadle.leases set lease = gen_random_uuid()")  # another's now
    go.set()
    await wait_for(ended)
    assert "step" not in await types(sql, message_id)


async def test_steps_within_steps_of_many_sync_agents(sql: Connection, start_worker: StartWorker) -> None:
    """Each in the thread of its agent: none waits for a thread that another one holds."""

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


async def test_a_step_that_did_not_get_into_the_log_is_not_in_the_end_either() -> None:
    """What it would have sent is not sent: so it is to run again."""
    never = asyncio.Event()

    async def append(batch: Any, patient: bool) -> Any:
        await never.wait()

    outbox = Outbox(UUID(int=1), UUID(int=2), 1, Batcher(append, limit=10), lambda reason: None)
    await outbox.put(EventToAppend("chunk", "{}"))
    saving = asyncio.create_task(outbox.save(EventToAppend("step", "{}", "[]")))
    await asyncio.sleep(0)
    closing = asyncio.create_task(outbox.close())
    await asyncio.sleep(0)
    outbox._sender.cancel()  # type: ignore[union-attr]
    first_seq, unsent = await closing
    assert (first_seq, [event.type for event in unsent]) == (1, ["chunk"])
    with pytest.raises(asyncio.CancelledError):
        await saving
