"""A message that has sent others is cancelled, fails or is deleted, and so are the others."""

import asyncio
from typing import Any

import pytest

from service.db.pool import Connection
from tests.support.agents import double
from tests.support.fixture_types import StartWorker
from tests.support.invariants import assert_consistent
from tests.support.messages import children, overview, settled, submit
from tests.support.waiting import until, wait_for
from treadle import Context, Rejected, agent


async def test_cancelling_a_parent_cancels_its_children(sql: Connection, start_worker: StartWorker) -> None:
    inside = asyncio.Event()

    @agent("endless")
    async def endless(context: Context, text: str) -> None:
        inside.set()
        await asyncio.Event().wait()

    @agent("parent")
    async def parent(context: Context, text: str) -> None:
        await context.gather(
            await context.send("runs", agent="endless"), await context.send("waits", agent="double", delay=3600)
        )

    await start_worker(parent, endless, double)
    message_id = await submit(sql, "x", agent="parent")
    await wait_for(inside)
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "children")
    assert await sql.fetchval("select treadle.cancel($1)", message_id) == "cancelled"
    for child in await children(sql, message_id):
        assert (await settled(sql, child["message_id"]))["state"] == "cancelled"
    await until(lambda: overview(sql, message_id), lambda row: row["children"] is None)
    await assert_consistent(sql)


async def test_a_cancelled_child_resumes_its_parent(sql: Connection, start_worker: StartWorker) -> None:
    @agent("parent")
    async def parent(context: Context, text: str) -> str:
        [result] = await context.gather(await context.send("x", agent="double", delay=3600), return_exceptions=True)
        return str(result.state)

    await start_worker(parent, double)
    message_id = await submit(sql, "x", agent="parent")
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "children")
    [child] = await children(sql, message_id)
    await sql.fetchval("select treadle.cancel($1)", child["message_id"])
    assert (await settled(sql, message_id))["result"] == "cancelled"


@pytest.mark.parametrize("before", ["gather", "step"])
async def test_a_deleted_child_is_not_sent_again(before: str, sql: Connection, start_worker: StartWorker) -> None:
    ran: list[str] = []

    @agent("child")
    async def child(context: Context, text: str) -> str:
        ran.append(text)
        return text

    @agent("parent")
    async def parent(context: Context, text: str) -> Any:
        sent = await context.send("once", agent="child", thread_id="child's")
        if text == "gather":
            await context.gather(sent, return_exceptions=True)
        else:
            await context.step("step", lambda: None)
        await context.input("go on?")
        [result] = await context.gather(sent, return_exceptions=True)
        return result.state

    await start_worker(parent, child)
    message_id = await submit(sql, before, agent="parent")
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    [only] = await children(sql, message_id)
    await settled(sql, only["message_id"])
    await sql.execute("select treadle.delete_thread('child''s')")
    await sql.fetchval("select treadle.input($1, '1')", message_id)
    assert (await settled(sql, message_id))["result"] == "deleted"
    assert ran == ["once"]
    assert await sql.fetchval("select count(*) from treadle.threads") == 0


async def test_deleting_a_parent_cancels_its_children(sql: Connection, start_worker: StartWorker) -> None:
    inside = asyncio.Event()

    @agent("endless")
    async def endless(context: Context, text: str) -> None:
        inside.set()
        await asyncio.Event().wait()

    @agent("parent")
    async def parent(context: Context, text: str) -> None:
        sent = [await context.send("runs", agent="endless"), await context.send("waits", agent="endless", delay=3600)]
        await context.gather(*sent)

    await start_worker(parent, endless)
    message_id = await submit(sql, "x", agent="parent", thread_id="t")
    await wait_for(inside)
    await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "children")
    await sql.execute("select treadle.delete_thread('t')")
    for child in await children(sql, message_id):
        assert (await settled(sql, child["message_id"]))["state"] == "cancelled"
    await until(lambda: sql.fetchval("select count(*) from treadle.parked"), lambda count: count == 0)
    await assert_consistent(sql)


@pytest.mark.parametrize("how", ["cancel", "reject"])
async def test_a_working_parent_that_ends_takes_its_children_along(
    how: str, sql: Connection, start_worker: StartWorker
) -> None:
    """And a redrive sends them once more."""
    go_on = asyncio.Event()

    @agent("boss")
    async def boss(context: Context, text: str) -> list[Any]:
        sent = [await context.send(word, agent="slow") for word in ("a", "b")]
        await context.step("dispatched", lambda: None)
        if context.attempt == 1:
            if text == "reject":
                raise Rejected("Nothing to do after all.")
            await asyncio.Event().wait()
        go_on.set()
        return await context.gather(*sent)

    @agent("slow")
    async def slow(context: Context, text: str) -> str:
        await go_on.wait()
        return text

    await start_worker(boss, slow)
    message_id = await submit(sql, how, agent="boss")
    await until(lambda: children(sql, message_id), lambda rows: len(rows) == 2)
    if how == "cancel":
        await sql.fetchval("select treadle.cancel($1)", message_id)
    states = await until(
        lambda: children(sql, message_id), lambda rows: {row["state"] for row in rows} == {"cancelled"}
    )
    assert len(states) == 2
    if how == "reject":
        await sql.fetchval("select treadle.redrive($1)", message_id)
        assert (await settled(sql, message_id, "completed"))["result"] == ["a", "b"]
        assert len(await children(sql, message_id)) == 4
    await assert_consistent(sql)
