"""Idempotency-Key: a repeated request gets the first response and submits nothing."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.db.pool import Connection
from service.patience import Patience
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.waiting import until


def keyed(api: Client, key: str, body: Any, path: str = "/messages") -> Coroutine[Any, Any, httpx.Response]:
    content = body if isinstance(body, str) else json.dumps(body)
    return api.post(path, content=content, headers={"Content-Type": "application/json", "Idempotency-Key": key})


def same(answers: list[httpx.Response]) -> bool:
    """Whether all responses are equal."""
    return len({(answer.status_code, answer.text, answer.headers.get("location")) for answer in answers}) == 1


async def count(sql: Connection) -> int:
    return int(await sql.fetchval("select count(*) from treadle.messages"))


async def test_a_repeat_gets_the_first_answer(api_with_worker: Client, sql: Connection) -> None:
    body = {"message": "x", "metadata": {"a": 1, "b": [2, 3]}, "thread_id": "t"}
    first = await keyed(api_with_worker, "k", body)
    assert first.status_code == 202
    assert first.headers["location"] == f"/messages/{first.json()['message_id']}/status"
    await api_with_worker.settled(first.json()["message_id"])
    again = [await keyed(api_with_worker, "k", body) for _ in range(3)]
    assert same([first, *again])
    assert await count(sql) == 1
    other = await keyed(api_with_worker, "another key", body)
    assert other.json()["message_id"] != first.json()["message_id"]


async def test_white_space_and_key_order_do_not_make_another_request(api: Client, sql: Connection) -> None:
    answers = [
        await keyed(api, "k", body)
        for body in (
            '{"message":"é","metadata":{"a":1,"b":{"c":2,"d":3}}}',
            '{ "message" : "\\u00e9",\n "metadata" : { "a" : 1, "b" : { "c" : 2, "d" : 3 } } }',
            '{"metadata":{"b":{"d":3,"c":2},"a":1},"message":"é"}',
            '{"message":"é","metadata":{"a":1,"b":{"c":2,"d":3}},"priority":"normal","thread_id":null}',
        )
    ]
    assert answers[0].status_code == 202
    assert same(answers)
    assert await count(sql) == 1


async def test_another_request_under_the_same_key_is_422(api: Client, sql: Connection) -> None:
    first = await keyed(api, "k", {"message": "x"})
    for body in ({"message": "y"}, {"message": "x", "priority": "high"}, {"message": "x", "thread_id": "t"}):
        answer = await keyed(api, "k", body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Idempotency-Key" in answer.json()["detail"]
    assert (await keyed(api, "k", {"messages": [{"message": "x"}]}, "/messages/batch")).status_code == 422
    assert await count(sql) == 1
    assert same([first, await keyed(api, "k", {"message": "x"})])


async def test_a_batch_accepts_an_idempotency_key(api: Client, sql: Connection) -> None:
    body = {"messages": [{"message": str(n), "thread_id": "t"} for n in range(20)]}
    first = await keyed(api, "k", body, "/messages/batch")
    assert first.status_code == 202
    assert len(first.json()["messages"]) == 20
    assert same([first, await keyed(api, "k", body, "/messages/batch")])
    assert await count(sql) == 20
    body["messages"].reverse()
    assert (await keyed(api, "k", body, "/messages/batch")).status_code == 422
    assert await count(sql) == 20


@pytest.mark.usefixtures("callers")
async def test_an_idempotency_key_holds_on_every_replica(
    start_api: StartApi, register_agents: Any, sql: Connection
) -> None:
    await register_agents()
    one, other = await start_api(), await start_api()
    answers = await asyncio.gather(*(keyed(api, "k", {"message": "x"}) for api in (one, other) * 5))
    assert {answer.status_code for answer in answers} == {202}
    assert same(answers)
    assert await count(sql) == 1


async def test_an_idempotency_key_expires_after_a_day(api: Client, sql: Connection) -> None:
    first = await keyed(api, "k", {"message": "x"})
    await sql.execute("update treadle.idempotency set created_at = created_at - interval '23 hours'")
    assert same([first, await keyed(api, "k", {"message": "x"})])
    await sql.execute("update treadle.idempotency set created_at = created_at - interval '2 hours'")
    other = await keyed(api, "k", {"message": "y"})
    assert other.status_code == 202
    assert same([other, await keyed(api, "k", {"message": "y"})])
    assert await count(sql) == 2


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many callers wait for what others hold, in APIs that start later. They wait without limit."""
    recorded: list[Patience] = []

    class Recorded(Patience):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            recorded.append(self)

    monkeypatch.setattr("service.messages.store.Patience", Recorded)
    monkeypatch.setattr("service.messages.store.HELD_SECONDS", 600)
    return lambda: sum(kind.callers for kind in recorded)


async def test_concurrent_repeats_wait_for_the_first(
    callers: Callable[[], int], start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    """The test locks the thread, so the first request waits for it, and the repeats wait behind it."""
    await register_agents()
    api = await start_api()
    await api.submit("before", thread_id="t")
    body = {"message": "x", "thread_id": "t"}
    async with sql.transaction():
        await sql.execute("select from treadle.threads where thread_id = 't' for update")
        requests = [asyncio.create_task(keyed(api, "k", body)) for _ in range(4)]
        await until(lambda: callers() == 4)
    answers = await asyncio.gather(*requests)
    assert {answer.status_code for answer in answers} == {202}
    assert same(answers)
    assert await count(sql) == 2


async def test_a_repeat_of_a_request_that_does_not_finish_is_409(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.messages.store.HELD_SECONDS", 0.2)
    await register_agents()
    api = await start_api()
    async with sql.transaction():
        await sql.execute(
            "insert into treadle.idempotency (tenant, restriction, key, request_hash, answer, created_at)"
            " values ('default', '', 'k', 'x', null, now())"
        )
        answer = await keyed(api, "k", {"message": "x"})
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        assert await keyed(api, str(uuid4()), {"message": "x"})
        await sql.execute("delete from treadle.idempotency where key = 'k'")
    answer = await keyed(api, "k", {"message": "x"})
    assert answer.status_code == 202
    assert await count(sql) == 2


async def test_a_request_whose_client_disconnects_can_be_repeated(
    callers: Callable[[], int], start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    """The client disconnects while its request waits for the thread: the request is dropped."""
    await register_agents()
    api = await start_api()
    await api.submit("before", thread_id="t")
    body = {"message": "x", "thread_id": "t"}
    async with sql.transaction():
        await sql.execute("select from treadle.threads where thread_id = 't' for update")
        leaving = asyncio.create_task(keyed(api, "k", body))
        await until(lambda: callers() == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await until(lambda: callers() == 0)
    answer = await keyed(api, "k", body)
    assert answer.status_code == 202
    assert same([answer, await keyed(api, "k", body)])
    assert await count(sql) == 2


STRICT = {"agent": "echo", "queue": "default", "timeout_seconds": 60, "max_attempts": 3, "input": {"type": "object"}}


async def test_a_repeat_gets_the_first_answer_though_its_agent_has_another_schema_by_now(
    api: Client, sql: Connection
) -> None:
    single = await keyed(api, "one", {"message": "x", "agent": "echo"})
    batch = await keyed(api, "many", {"messages": [{"message": "x", "agent": "echo"}]}, "/messages/batch")
    assert (single.status_code, batch.status_code) == (202, 202)
    await sql.execute("select treadle.register_agents($1::jsonb)", json.dumps([STRICT]))
    body = {"message": "y", "agent": "echo"}
    await until(lambda: api.post("/messages", json=body), lambda answer: answer.status_code == 422)
    assert same([single, await keyed(api, "one", {"message": "x", "agent": "echo"})])
    assert same([batch, await keyed(api, "many", {"messages": [{"message": "x", "agent": "echo"}]}, "/messages/batch")])
    assert (await keyed(api, "one", body)).status_code == 422


async def test_a_publish_gets_its_first_answer_though_its_topic_has_another_schema_by_now(
    api: Client, sql: Connection
) -> None:
    await sql.execute("select treadle.create_topic('t')")
    first = await keyed(api, "k", {"value": "x"}, "/topics/t/records")
    assert first.status_code == 202
    await sql.execute(
        """select treadle.register_schema('s', 'JSON', '{"type": "integer"}', treadle.uuid7(), latest => 0)"""
    )
    assert (await api.put("/topics/t", json={"schema_subject": "s"})).status_code == 200
    await until(lambda: api.post("/topics/t/records", json={"value": "x"}), lambda a: a.status_code == 422)
    assert same([first, await keyed(api, "k", {"value": "x"}, "/topics/t/records")])
    assert (await keyed(api, "k", {"value": "y"}, "/topics/t/records")).status_code == 422
