"""What agents keep between messages: the memory of their thread, and warm instances."""

import asyncio
from hashlib import sha256
from typing import Any

import pytest

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import StartWorker
from tests.support.invariants import assert_consistent
from tests.support.messages import run, settled, submit
from tests.support.waiting import until, wait_for
from treadle import Context, agent


async def state(sql: Connection, thread_id: str) -> Any:
    return await sql.fetchval("select memory from treadle.threads where thread_id = $1", thread_id)


async def test_a_threads_memory_is_saved_with_the_completion(sql: Connection, start_worker: StartWorker) -> None:
    @agent("counter", max_attempts=2)
    async def counter(context: Context, text: str) -> int:
        context.memory["count"] = context.memory.get("count", 0) + 1
        if text == "fail" or (text == "retry" and context.attempt == 1):
            raise RuntimeError("not this time")
        return int(context.memory["count"])

    await start_worker(counter)
    assert (await run(sql, "x", agent="counter", thread_id="t"))["result"] == 1
    assert (await run(sql, "retry", agent="counter", thread_id="t"))["result"] == 2
    assert (await run(sql, "fail", agent="counter", thread_id="t"))["state"] == "failed"
    assert await state(sql, "t") == {"count": 2}
    assert (await run(sql, "x", agent="counter", thread_id="other"))["result"] == 1
    assert (await run(sql, "x", agent="counter"))["result"] == 1
    await assert_consistent(sql)


async def test_a_memory_can_be_replaced_and_an_unchanged_one_is_not_written(
    sql: Connection, start_worker: StartWorker
) -> None:
    @agent("replaces")
    async def replaces(context: Context, text: str) -> Any:
        before = context.memory
        if text:
            context.memory = {"text": text, "\x00": 1.5}
        return before

    await start_worker(replaces)
    await run(sql, "a", agent="replaces", thread_id="t")
    changed = await sql.fetchval("select xmin from treadle.threads")
    assert (await run(sql, "b", agent="replaces", thread_id="t"))["result"] == {"text": "a", "\ufffd": 1.5}
    assert changed != await sql.fetchval("select xmin from treadle.threads")
    assert await state(sql, "t") == {"text": "b", "\ufffd": 1.5}


async def test_a_memory_is_compared_as_json(sql: Connection, start_worker: StartWorker) -> None:
    """In Python True equals 1, and PostgreSQL writes 1e23 with digits that are another number for Python."""

    @agent("flags")
    async def flags(context: Context, text: str) -> Any:
        context.memory |= {"flag": text == "set" or 1, "large": 1e23}

    await start_worker(flags)
    await run(sql, "begin", agent="flags", thread_id="t")
    written = await sql.fetchval("select xmin from treadle.threads")
    await run(sql, "leave", agent="flags", thread_id="t")
    assert await sql.fetchval("select xmin from treadle.threads") == written
    await run(sql, "set", agent="flags", thread_id="t")
    assert (await state(sql, "t"))["flag"] is True


async def test_a_memory_has_a_maximum_size(sql: Connection, start_worker: StartWorker) -> None:
    @agent("large", max_attempts=5)
    async def large(context: Context, text: str) -> None:
        context.memory["x"] = "x" * 2_000

    await start_worker(large, max_event_bytes=1_000)
    row = await run(sql, "x", agent="large", thread_id="t")
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert "a thread's memory has at most 1000 bytes" in row["error"]
    assert await state(sql, "t") is None


async def test_a_cancelled_message_saves_nothing(sql: Connection, start_worker: StartWorker) -> None:
    inside = asyncio.Event()

    @agent("late")
    async def late(context: Context, text: str) -> None:
        context.memory["x"] = 1
        await context.send("x", agent="late")
        inside.set()
        while not context.cancelled:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                return

    await start_worker(late)
    message_id = await submit(sql, "x", agent="late", thread_id="t")
    await wait_for(inside)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    assert await state(sql, "t") is None
    assert await sql.fetchval("select count(*) from treadle.messages") == 1


async def test_an_aside_sees_the_message_whose_turn_it_is(sql: Connection, start_worker: StartWorker) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    @agent("main")
    async def main(context: Context, text: str) -> str:
        await context.step("plan", lambda: ["a", "b"])
        await context.event("progress", {"stage": 1})
        await context.event("progress", {"stage": 2})
        await context.step("mark", lambda: None)
        reached.set()
        await go_on.wait()
        return "main"

    @agent("aside")
    async def aside(context: Context, text: str) -> Any:
        context.memory["mine"] = 1
        found = await context.under_way()
        return found and [found.message_id, found.agent, found.message, found.steps, found.progress]

    await start_worker(main, aside)
    assert (await run(sql, "alone", agent="aside"))["result"] is None
    message_id = await submit(sql, "question", agent="main", thread_id="t")
    await wait_for(reached)
    row = await run(sql, "how far?", agent="aside", thread_id="t", aside=True)
    assert row["result"] == [
        *(str(message_id), "main", "question"),
        {"plan": ["a", "b"], "mark": None},
        [{"stage": 1}, {"stage": 2}],
    ]
    go_on.set()
    assert (await settled(sql, message_id))["result"] == "main"
    row = await run(sql, "and now?", agent="aside", thread_id="t", aside=True)
    assert (row["result"], await state(sql, "t")) == (None, None)
    assert (await run(sql, "my turn", agent="aside", thread_id="t"))["result"] is None
    await assert_consistent(sql)


async def test_history_fits_a_token_budget(sql: Connection, start_worker: StartWorker) -> None:
    """The latest whole exchanges. Each has 10 + 10 tokens, and 13 of its tool; the prompt has 5."""

    @agent("talks")
    async def talks(context: Context, text: str) -> str:
        await context.event("tool", {"name": text})
        return "y" * 40

    @agent("looks")
    async def looks(context: Context, text: str) -> Any:
        budgets = (24, 25, 44, 45, 1000)
        plain = [await context.history(max_tokens=budget, system="s" * 20) for budget in budgets]
        tooled = await context.history(max_tokens=33, tools=True)
        return [[exchange.message[0] for exchange in exchanges] for exchanges in plain], [
            exchange.tools for exchange in tooled
        ]

    await start_worker(talks, looks)
    for n in range(3):
        await run(sql, f"{n}" * 40, agent="talks", thread_id="t")
    row = await run(sql, "x", agent="looks", thread_id="t")
    assert row["result"] == [[[], ["2"], ["2"], ["1", "2"], ["0", "1", "2"]], [[{"name": "2" * 40}]]]


async def test_history_has_a_limit_in_bytes(
    sql: Connection, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without a budget of tokens, and with a larger one."""
    monkeypatch.setattr("service.worker.context.history.HISTORY_BYTES", 100)

    @agent("looks")
    async def looks(context: Context, text: str) -> Any:
        return [len(await context.history()), len(await context.history(max_tokens=10_000))]

    await start_worker(looks)
    for _ in range(3):
        await run(sql, "x" * 40, agent="looks", thread_id="t")
    assert (await run(sql, "x", agent="looks", thread_id="t"))["result"] == [2, 2]


async def test_instances_are_kept_for_agent_and_thread(sql: Connection, api: Client, start_worker: StartWorker) -> None:
    made: list[str] = []
    closed: list[str] = []

    class Warm:
        def __init__(self, name: str) -> None:
            made.append(name)
            self.name = name
            self.uses = 0

        async def aclose(self) -> None:
            closed.append(self.name)

    async def answer(context: Context, text: str) -> int:
        warm = await context.instance(lambda: Warm(f"{context.thread_id}"))
        warm.uses += 1
        return int(warm.uses)

    keeps = agent("keeps")(answer)
    forgets = agent("forgets", idle_timeout=0)(answer)
    await start_worker(keeps, forgets)
    for uses in (1, 2):
        assert (await run(sql, "x", agent="keeps", thread_id="a"))["result"] == uses
    assert (await run(sql, "x", agent="keeps", thread_id="b"))["result"] == 1
    assert (await run(sql, "x", agent="forgets", thread_id="a"))["result"] == 1
    assert (await run(sql, "x", agent="keeps"))["result"] == 1
    assert made == ["a", "b", "a", "None"]
    forged = sha256(b"default\nkeeps\na").hexdigest()  # any login of PostgreSQL can send a hint
    await sql.execute(f"notify treadle_instances, '{forged}'")
    assert (await run(sql, "x", agent="keeps", thread_id="a"))["result"] == 3
    dropped = await api.delete("/instances/keeps/a")
    assert (dropped.status_code, dropped.json()) == (202, {"agent": "keeps", "thread_id": "a"})
    await until(lambda: closed, lambda names: names == ["a", "None", "a"])  # uncached ones, at once
    assert (await run(sql, "x", agent="keeps", thread_id="a"))["result"] == 1
    assert (await run(sql, "x", agent="keeps", thread_id="b"))["result"] == 2
    answered = await api.delete("/instances/unknown/a")
    assert (answered.status_code, answered.json()["detail"]) == (404, "There is no agent 'unknown'.")
    [declared] = [row for row in (await api.get("/agents")).json() if row["agent"] == "forgets"]
    assert declared["settings"] == {"run_in": "worker", "idle_timeout": 0.0}


async def test_a_failed_instance_is_made_again(sql: Connection, start_worker: StartWorker) -> None:
    tries: list[int] = []

    def make() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not at once")
        return "made"

    @agent("tries")
    async def tries_it(context: Context, text: str) -> Any:
        return await context.instance(make)

    await start_worker(tries_it)
    row = await run(sql, "x", agent="tries", thread_id="t")
    assert (row["result"], row["attempt"], len(tries)) == ("made", 2, 2)


async def test_an_instance_in_use_is_not_closed(sql: Connection, start_worker: StartWorker) -> None:
    """However long the message takes, and if it is dropped meanwhile."""
    inside, go_on = asyncio.Event(), asyncio.Event()
    closed: list[str] = []

    class Warm:
        def close(self) -> None:
            closed.append("closed")

    @agent("uses", idle_timeout=0.001)
    async def uses(context: Context, text: str) -> int:
        await context.instance(Warm)
        inside.set()
        await go_on.wait()
        return len(closed)

    worker = await start_worker(uses)
    message_id = await submit(sql, "x", agent="uses", thread_id="t")
    await wait_for(inside)
    instances = worker._services.instances
    instances.drop_idle()
    instances.drop(instances.name("default", "uses", "t"))
    await asyncio.sleep(0)
    go_on.set()
    assert (await settled(sql, message_id))["result"] == 0
    await until(lambda: closed, lambda names: names == ["closed"])


@pytest.mark.parametrize("state", [None, [], "text", 1])
async def test_a_memory_is_an_object(state: Any, sql: Connection, start_worker: StartWorker) -> None:
    @agent("odd", max_attempts=3)
    async def odd(context: Context, text: str) -> None:
        context.memory = state

    await start_worker(odd)
    row = await run(sql, "x", agent="odd", thread_id="t")
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert "memory is an object" in row["error"]
