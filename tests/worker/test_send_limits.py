"""Agents that send to themselves come to an end."""

from service.db.pool import Connection
from service.limits import MAX_SEND_DEPTH
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, submit
from tests.support.waiting import until
from treadle import Context, agent


async def test_a_chain_of_messages_ends(sql: Connection, start_worker: StartWorker) -> None:
    @agent("endless")
    async def endless(context: Context, text: str) -> None:
        await context.send(text, agent="endless")

    await start_worker(endless)
    await submit(sql, "x", agent="endless")
    [last] = await until(lambda: sql.fetch("select * from treadle.messages where state = 'failed'"))
    assert (last["depth"], last["failures"]) == (MAX_SEND_DEPTH, 1)
    assert "A chain of messages that send messages or publish records ends" in last["error"]
    assert await sql.fetchval("select count(*) from treadle.messages") == MAX_SEND_DEPTH + 1


async def test_max_queue_size_counts_for_messages_that_agents_send(sql: Connection, start_worker: StartWorker) -> None:
    """Of both kinds: with a step, and with the end of the attempt."""

    @agent("sender", max_attempts=1)
    async def sender(context: Context, text: str) -> None:
        for n in range(4):
            await context.send(f"{n}", agent="waits", delay=1000)
        if text == "step":
            await context.step("after", lambda: 1)

    @agent("waits")
    async def waits(context: Context, text: str) -> None: ...

    await start_worker(sender, waits, max_queue_size=3)
    for how in ("step", "end"):
        row = await run(sql, how, agent="sender")
        assert row["state"] == "failed"
        assert "is full: it holds at most 3 messages" in row["error"]
    assert await sql.fetchval("select count(*) from treadle.messages where agent = 'waits'") == 0
