"""The steps of agents in a remote worker keep the rules of those in a worker of the installation."""

from typing import Any

import pytest

from service.db.pool import Connection
from tests.clients.test_remote_worker import serving, url_of
from tests.support.api_client import Client
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
