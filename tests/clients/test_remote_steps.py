"""The steps of agents in a remote worker keep the rules of those in a worker of the installation."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.serving import serving, url_of
from tests.support.waiting import until
from tests.support.worker_processes import lose_lease
from treadle import Context, Worker, agent


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_a_result_that_its_annotation_does_not_allow_is_not_stored(
    way: str, api_with_worker: Client, sql: Connection
) -> None:
    made: list[Any] = ["no number", 7]
    ran: list[Any] = []

    def count() -> int:
        ran.append(made[len(ran)])
        return ran[-1]  # type: ignore[no-any-return]

    @agent("counts")
    async def in_loop(context: Context, text: str) -> Any:
        return await context.step("count", count)

    @agent("counts")
    def in_thread(context: Any, text: str) -> Any:
        return context.step("count", count)

    async with serving(Worker(in_loop if way == "async" else in_thread, url=url_of(api_with_worker))):
        message_id = await api_with_worker.submit("x", agent="counts")
        status = await api_with_worker.settled(message_id)
    assert (status["state"], status["result"], status["attempt"]) == ("completed", 7, 2)
    assert ran == made
    reason = await sql.fetchval("select data ->> 'error' from treadle.events where type = 'retry'")
    assert reason.startswith("TypeError: the step 'count' returned what its annotation does not allow: ")
    stored = await sql.fetch("select data -> 'result' from treadle.events where type = 'step'")
    assert [row[0] for row in stored] == [7]


@agent("remembers", max_attempts=2)
async def remembers(context: Context, text: str) -> list[str]:
    context.memory["large"] = 1e23
    found = await context.step("numbers", lambda: [1e23, -0.0, 1e16, 5e-324])
    seen = await context.step(f"seen {context.attempt}", lambda: repr(found))
    if context.attempt == 1:
        raise ValueError("again")
    return [seen, await context.step("seen 1", lambda: "not reached")]


async def test_numbers_are_the_same_in_every_attempt(api_with_worker: Client, sql: Connection) -> None:
    """A memory that PostgreSQL writes in another way has not changed."""
    written = []
    async with serving(Worker(remembers, url=url_of(api_with_worker))):
        for _ in range(2):
            status = await api_with_worker.settled(await api_with_worker.submit("x", agent="remembers", thread_id="t"))
            assert len(set(status["result"])) == 1, status
            written.append(await sql.fetchval("select xmin from treadle.threads"))
    assert written[0] == written[1]


@agent("spends", max_attempts=1)
async def spends(context: Context, how: str) -> None:
    async def ask() -> None:
        context.usage(**{"tokens": 10, "model": "m", "self": 1})

    await asyncio.gather(*(context.step(f"ask {n}", ask) for n in range(3)))
    if how == "hang":
        await asyncio.Event().wait()
    context.usage(tokens=1)
    raise ValueError("no answer")


async def test_the_usage_of_steps_side_by_side_is_added_also_of_failed_and_lost_attempts(
    api_with_worker: Client, sql: Connection
) -> None:
    api = api_with_worker
    async with serving(Worker(spends, url=url_of(api))):
        failed = await api.settled(await api.submit("fail", agent="spends"))
        assert (failed["state"], failed["usage"]) == ("failed", {"tokens": 31, "model": "m", "self": 3})
        hangs = await api.submit("hang", agent="spends")
        steps = "select count(*) from treadle.events where type = 'step' and message_id = $1"
        await until(lambda: sql.fetchval(steps, UUID(hangs)), lambda count: count == 3)
        await sql.execute("update treadle.messages set max_losses = 1")
        await lose_lease(sql, UUID(hangs))
        lost = await api.settled(hangs)
        assert (lost["state"], lost["usage"]) == ("failed", {"tokens": 30, "self": 3})
