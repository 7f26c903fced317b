"""Messages that send messages and wait for them: sent once, with a step or the end; parked outside the concurrency."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.db.pool import Connection, Database
from tests.support.agents import double
from tests.support.fixture_types import StartWorker
from tests.support.invariants import assert_consistent
from tests.support.isolated_agents import orders, sends_an_order
from tests.support.messages import children, log, overview, run, settled, submit, types
from tests.support.waiting import until
from treadle import ChildFailed, Context, agent


@pytest.mark.parametrize("thread", [None, "t"])
async def test_gather_returns_the_results_of_sent_messages(
    thread: str | None, sql: Connection, start_worker: StartWorker
) -> None:
    attempts: list[int] = []

    @agent("parent")
    async def parent(context: Context, text: str) -> list[str]:
        attempts.append(context.attempt)
        sent = [await context.send(word, agent="double") for word in text.split()]
        return await context.gather(*sent)

    await start_worker(parent, double)
    row = await run(sql, "a b c", agent="parent", thread_id=thread)
    assert (row["state"], row["result"], row["failures"], row["children"]) == ("completed", ["aa", "bb", "cc"], 0, None)
    assert attempts == [1, 2]
    assert await types(sql, row["message_id"]) == ["queued", "started", "parked", "started", "done"]
    sent = await children(sql, row["message_id"])
    parked = (await log(sql, row["message_id"]))[2].data
    ids = {child["user_message"]: str(child["message_id"]) for child in sent}
    in_order = [ids["a"], ids["b"], ids["c"]]
    assert parked == {"attempt": 1, "hold": "children", "children": in_order, "sent": in_order}
    await assert_consistent(sql)


async def test_a_parked_message_uses_no_concurrency(sql: Connection, start_worker: StartWorker) -> None:
    """A tree of messages three deep completes with a concurrency of one."""

    @agent("tree")
    async def tree(context: Context, text: str) -> int:
        if text == "0":
            return 1
        sent = [await context.send(str(int(text) - 1), agent="tree") for _ in range(2)]
        return sum(await context.gather(*sent))

    await start_worker(tree, worker_concurrency=1)
    row = await run(sql, "3", agent="tree")
    assert (row["state"], row["result"]) == ("completed", 8)
    assert await sql.fetchval("select count(*) from treadle.messages") == 15
    await assert_consistent(sql)


async def test_a_parked_message_keeps_its_threads_turn(sql: Connection, start_worker: StartWorker) -> None:
    hold = asyncio.Event()

    @agent("slow")
    async def slow(context: Context, text: str) -> str:
        await hold.wait()
        return text

    @agent("parent")
    async def parent(context: Context, text: str) -> list[Any]:
        return await context.gather(await context.send("x", agent="slow"))

    await start_worker(parent, slow, double)
    first = await submit(sql, "x", agent="parent", thread_id="t")
    await until(lambda: overview(sql, first), lambda row: row["hold"] == "children")
    second = await submit(sql, "y", agent="double", thread_id="t", priority="high")
    assert (await overview(sql, second))["hold"] == "thread"
    await assert_consistent(sql)
    hold.set()
    assert (await settled(sql, second))["state"] == "completed"
    assert (await overview(sql, first))["result"] == ["x"]
    await assert_consistent(sql)


async def test_a_failed_child_fails_its_parent(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent", max_attempts=5)
    async def parent(context: Context, text: str) -> Any:
        sent = [await context.send(word, agent="double") for word in ("a", "bad")]
        results = await context.gather(*sent, return_exceptions=text == "keep")
        return [f"{result.state} {result.error}" if isinstance(result, ChildFailed) else result for result in results]

    await start_worker(parent, double)
    kept = await run(sql, "keep", agent="parent")
    assert kept["result"] == ["aa", "failed Not that."]
    failed = await run(sql, "raise", agent="parent")
    assert (failed["state"], failed["failures"]) == ("failed", 1)
    assert "is failed: Not that." in failed["error"]


async def test_a_failed_attempt_sends_nothing_and_a_message_is_sent_once(
    sql: Connection, database: Database, start_worker: StartWorker
) -> None:
    @agent("parent", max_attempts=3)
    async def parent(context: Context, text: str) -> str:
        await context.send("with the step", agent="double")
        if context.attempt == 1:
            raise RuntimeError("before")
        await context.step("step", lambda: None)
        await context.send("with the end", agent="double", name="last")
        if context.attempt == 2:
            query = "select body from treadle.messages where parent = $1"
            seen.append([row["body"] for row in await database.fetch(query, UUID(context.message_id))])
            raise RuntimeError("after")
        return "x"

    seen: list[Any] = []
    await start_worker(parent, double)
    row = await run(sql, "x", agent="parent")
    assert (row["state"], row["attempt"]) == ("completed", 3)
    assert seen == [["with the step"]]
    sent = await children(sql, row["message_id"])
    assert sorted(child["user_message"] for child in sent) == ["with the end", "with the step"]
    for child in sent:
        assert (await settled(sql, child["message_id"]))["state"] == "completed"
    await assert_consistent(sql)


async def test_a_sent_message_has_the_fields_that_send_was_given(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent")
    async def parent(context: Context, text: str) -> None:
        await context.send(
            "x", agent="double", thread_id="other", priority="low", metadata={"a": 1}, delay=60, aside=True
        )
        await context.send("own", agent="double", thread_id=context.thread_id)

    await start_worker(parent, double)
    row = await run(sql, "x", agent="parent", thread_id="t")
    sent = {child["user_message"]: child for child in await children(sql, row["message_id"])}
    other, own = sent["x"], sent["own"]
    assert (other["thread_id"], other["priority"], other["metadata"], other["hold"], other["aside"]) == (
        *("other", "low", {"a": 1}, "delay", True),
    )
    assert (await settled(sql, own["message_id"]))["result"] == "ownown"
    assert (own["thread_id"], own["ord"]) == ("t", 2)
    await assert_consistent(sql)


async def test_gather_refuses_messages_that_it_cannot_wait_for(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent", max_attempts=1)
    async def parent(context: Context, text: str) -> Any:
        if text == "own":
            return await context.gather(await context.send("x", agent="double", thread_id="t"))
        if text == "not an id":
            return await context.gather("not an id")
        if text == "unknown agent":
            return await context.gather(await context.send("x", agent="unknown"))
        return await context.gather()

    await start_worker(parent, double)
    own = await run(sql, "own", agent="parent", thread_id="t")
    assert (own["state"], "waits for this one's turn in the thread 't'" in own["error"]) == ("failed", True)
    invalid = await run(sql, "not an id", agent="parent")
    assert "gather takes what send returned" in invalid["error"]
    unknown = await run(sql, "unknown agent", agent="parent")
    assert "There is no agent 'unknown'." in unknown["error"]
    assert (await run(sql, "none", agent="parent"))["result"] == []
    assert await sql.fetchval("select count(*) from treadle.messages where parent is not null") == 0
    await assert_consistent(sql)


async def test_messages_sent_in_a_step_can_be_gathered(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent")
    async def parent(context: Context, text: str) -> list[Any]:
        async def fan_out() -> list[str]:
            return [await context.send(word, agent="double") for word in text.split()]

        return await context.gather(*await context.step("fan out", fan_out))

    await start_worker(parent, double)
    row = await run(sql, "a b", agent="parent")
    assert (row["state"], row["result"]) == ("completed", ["aa", "bb"])
    assert len(await children(sql, row["message_id"])) == 2


async def test_send_refuses_a_message_that_does_not_fit_its_agent(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(orders, sends_an_order)
    row = await run(sql, {"number": 1}, agent="sends an order")
    assert (row["state"], row["result"]) == ("completed", 2)
    row = await run(sql, {"number": "one"}, agent="sends an order")
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert row["error"].startswith(
        "A message to send is refused: message.number does not fit the input of the agent 'orders':"
    )
    assert await children(sql, row["message_id"]) == []


async def test_send_refuses_invalid_messages(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent", max_attempts=1)
    async def parent(context: Context, text: str) -> list[str]:
        said = []
        for wrong in (
            {"thread_id": "a/b"},
            {"thread_id": ""},
            {"thread_id": "x" * 256},
            {"priority": "urgent"},
            {"delay": -1.0},
            {"delay": float("nan")},
            {"aside": True},
            {"name": ""},
        ):
            try:
                await context.send("x", agent="double", **wrong)
            except ValueError as error:
                said.append(str(error))
        return said

    await start_worker(parent, double)
    row = await run(sql, "x", agent="parent")
    assert len(row["result"]) == 8
    assert await children(sql, row["message_id"]) == []


async def test_a_held_thread_delays_only_the_agents_that_send_into_it(
    sql: Connection, start_worker: StartWorker, dsn: str
) -> None:
    """Of both kinds: sends with a step, and sends with the end of the attempt."""

    @agent("sender")
    async def sender(context: Context, text: str) -> str:
        thread, _, how = text.partition(" ")
        await context.send("x", agent="double", thread_id=thread)
        if how == "step":
            await context.step("after", lambda: 1)
        return text

    await start_worker(sender, double)
    await run(sql, "x", agent="double", thread_id="held")
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute("select from treadle.threads where thread_id = 'held' for update")
            await holder.execute("select treadle.submit('x', agent => 'double', thread_id => 'new')")
            stuck = [
                await submit(sql, f"{thread} {how}", agent="sender", thread_id=None if n % 2 else f"own {n}")
                for n in range(20)
                for thread in ("held", "new")
                for how in ("step", "end")
            ]
            for how in ("step", "end"):
                row = await run(sql, f"free {how}", agent="sender")
                assert row["state"] == "completed"
            states = await sql.fetch("select state from treadle.messages where message_id = any($1)", stuck)
            assert {row["state"] for row in states} <= {"queued", "processing"}
        for message_id in stuck:
            row = await settled(sql, message_id)
            assert (row["state"], row["failures"]) == ("completed", 0)
    finally:
        await holder.close()
