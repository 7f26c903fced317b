"""A transaction holds a thread: requests that need it wait in a line or are busy; all others are served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from service.db.pool import Connection
from service.patience import Patience
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

ROUNDS = 12  # of a call of each kind; the client opens at most 100 connections
HOLDERS = {
    "a submit": "select treadle.submit('x', thread_id => 'held'), treadle.submit('x', thread_id => 'new')",
    "a lock": "select from treadle.threads where thread_id = 'held' for update",
}


@contextlib.asynccontextmanager
async def held(dsn: str, statement: str) -> AsyncIterator[None]:
    """The statement's locks are held in the block."""
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute(statement)
            yield
    finally:
        await holder.close()


def keep_waiting(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for module in ("messages", "messages.control", "threads"):
        monkeypatch.setattr(f"service.{module}.store.HELD_SECONDS", seconds)


async def ids_of(sql_client: SqlClient, thread_id: str) -> dict[str, Any]:
    """A thread with a failed, a running and two queued messages."""
    failed = await sql_client.submit(thread_id=thread_id, aside=True, max_attempts=1)
    await sql_client.run(outcome="error")
    running = await sql_client.submit(thread_id=thread_id)
    await sql_client.claim_one(worker=thread_id)
    return {
        "failed": failed,
        "running": running,
        "queued": await sql_client.submit(thread_id=thread_id),
        "other": await sql_client.submit(thread_id=thread_id),
    }


def requests(api: Client, thread_id: str, ids: dict[str, Any]) -> list[Any]:
    """A call of each kind that needs the thread."""
    one = {"message": "x", "thread_id": thread_id}
    return [
        api.post("/messages", json=one),
        api.post("/messages/batch", json={"messages": [one, {"message": "y"}]}),
        api.post("/messages", json=one, headers={"Idempotency-Key": f"k {thread_id}"}),
        api.delete(f"/messages/{ids['queued']}"),
        api.post(f"/messages/{ids['failed']}/redrive"),
        api.post(f"/messages/{ids['other']}/input", json={"input": 1}),
    ]


@pytest.mark.parametrize("holder", HOLDERS)
async def test_requests_to_a_held_thread_delay_no_other(
    start_api: StartApi, sql_client: SqlClient, dsn: str, monkeypatch: pytest.MonkeyPatch, holder: str
) -> None:
    """Though many wait: of each kind more than there are slots and connections."""
    keep_waiting(monkeypatch, 600)
    api = await start_api()
    api.timeout = httpx.Timeout(600)
    mine, theirs = await ids_of(sql_client, "held"), await ids_of(sql_client, "free")
    async with held(dsn, HOLDERS[holder]):
        waiting = [
            asyncio.create_task(asyncio.wait_for(request, 600))
            for _ in range(ROUNDS)
            for request in requests(api, "held", mine)
        ]
        if holder == "a submit":  # a thread that is just being created
            waiting += [asyncio.create_task(api.submit("x", thread_id="new")) for _ in range(ROUNDS)]
        answers = await asyncio.gather(*requests(api, "free", theirs))
        assert [answer.status_code for answer in answers] == [202, 202, 202, 200, 202, 409]
        assert (await api.post("/messages", json={"message": "x", "thread_id": "new too"})).status_code == 202
        assert (await api.delete(f"/messages/{mine['running']}")).status_code == 202  # needs only its lease
        assert (await api.delete("/threads/free")).status_code == 204
        assert not [task for task in waiting if task.done()]
    answers = await asyncio.gather(*waiting)
    codes = [answer.status_code for answer in answers if isinstance(answer, httpx.Response)]
    assert codes.count(202) == ROUNDS * 3 + 1  # the submits, and one redrive
    assert codes.count(200) == 1  # one cancel
    assert codes.count(409) == 3 * ROUNDS - 2  # the others: it is over, it has not failed, it does not ask


async def test_requests_to_a_held_thread_are_busy_at_their_deadline(
    start_api: StartApi, sql_client: SqlClient, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_waiting(monkeypatch, 0.2)
    api = await start_api()
    ids = await ids_of(sql_client, "held")
    async with held(dsn, HOLDERS["a lock"]):
        calls = [request for _ in range(5) for request in [*requests(api, "held", ids), api.delete("/threads/held")]]
        for answer in await asyncio.gather(*calls):
            problem(answer, 409, "try again")
            assert answer.headers["retry-after"] == "1"
    # One after the other: at once, they would hold the thread for each other.
    assert [(await request).status_code for request in requests(api, "held", ids)][:3] == [202] * 3


NO_SUBMIT_RUNS = """
    select not exists (
        select from pg_stat_activity a
        where a.datname = current_database() and a.state = 'active' and a.query like '%submit_many%'
            and a.pid <> pg_backend_pid())"""


async def test_a_request_whose_client_has_gone_is_dropped(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_waiting(monkeypatch, 600)
    recorded: list[Patience] = []

    class Recorded(Patience):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            recorded.append(self)

    monkeypatch.setattr("service.messages.store.Patience", Recorded)
    await register_agents()
    api = await start_api()
    await api.submit("first", thread_id="held")
    async with held(dsn, HOLDERS["a lock"]):
        gone = [
            asyncio.create_task(api.post("/messages", json={"message": "gone", "thread_id": "held"})) for _ in range(3)
        ]
        await until(lambda: sum(kind.callers for kind in recorded) == len(gone))
        for request in gone:
            request.cancel()
        await until(lambda: not any(kind.callers for kind in recorded))
        # What had begun may still be written, so it must have found the lock.
        await until(lambda: sql.fetchval(NO_SUBMIT_RUNS))
    await api.submit("second", thread_id="held")
    assert await sql.fetchval("select count(*) from treadle.messages") == 2
