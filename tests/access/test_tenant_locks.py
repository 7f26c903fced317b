"""What a login of a tenant holds in an open transaction delays calls of its tenant only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uuid_utils

from service import patience
from service.agents.builtin.echo import echo
from service.db.pool import Connection, Database
from service.protocols.langgraph import store as langgraph_store
from service.threads import store as thread_store
from service.topics import store as topic_store
from tests.support.access import bearer, create_key
from tests.support.api_client import Client
from tests.support.fixture_types import StartWorker
from tests.support.tenant_logins import tenant_session
from tests.support.waiting import until
from treadle import Context, agent

CALLS = 15  # more than an API process has connections for
ITEM = {"namespace": ["n"], "key": "k", "value": {}}
PUT = '[{"op": "put", "namespace": ["n"], "key": "k", "value": {}}]'
OF_KEEPS = "select count(*) = $2 from treadle.messages where agent = 'keeps' and state = $1"
RECORDS = {"records": [{"value": 1}]}
# What the login holds, the call that needs it, and the status of the call afterwards.
HELD = {
    "the charge of a submit": (
        ["select treadle.submit('x')", "set constraints all immediate"],
        ("POST", "/messages", {"message": "x"}, None),
        202,
    ),
    "the charge of a publish": (
        ["select treadle.publish('t', '1')", "set constraints all immediate"],
        ("POST", "/topics/t/records", RECORDS, None),
        202,
    ),
    "the key of a publish": (
        ["select treadle.publish_once('k', sha256('x'), 't', '[{\"value\": 1}]')"],
        ("POST", "/topics/t/records", RECORDS, "k"),
        422,  # it is the key of another request
    ),
    "an item": (
        [f"select treadle.use_store('{PUT}')"],
        ("PUT", "/langgraph/store/items", ITEM, None),
        204,
    ),
    "a thread": (
        ["select treadle.submit('x', thread_id => 'new')"],
        ("POST", "/langgraph/threads", {"thread_id": "new", "if_exists": "do_nothing"}, None),
        200,
    ),
}


@contextlib.asynccontextmanager
async def held(session: Connection, statements: list[str]) -> AsyncIterator[None]:
    async with session.transaction():
        for statement in statements:
            await session.execute(statement)
        yield


@pytest.mark.parametrize("kind", HELD)
async def test_what_a_tenant_holds_delays_no_call_of_another(
    kind: str, closed_api: Client, database: Database, dsn: str, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (topic_store, thread_store, langgraph_store):
        monkeypatch.setattr(module, "HELD_SECONDS", 600)
    if kind.startswith("the charge"):
        monkeypatch.setattr(patience, "MAX_LINE_CALLERS", CALLS // 3)  # of a thread: these wait for another thing
    statements, (method, path, body, key), status = HELD[kind]
    headers = {} if key is None else {"Idempotency-Key": key}
    closed_api.timeout = httpx.Timeout(600)
    callers: dict[str, dict[str, str]] = {}
    for tenant in ("acme", "globex"):
        await sql.execute("select treadle.create_tenant($1)", tenant)
        await sql.execute("select treadle.limit_tenant($1, '{\"per_minute\": 100000}')", tenant)
        await sql.execute("select treadle.create_topic('t', tenant => $1)", tenant)
        callers[tenant] = bearer((await create_key(closed_api, "submit", "read", "publish", tenant=tenant))["key"])

    def call(tenant: str) -> Any:
        return closed_api.request(method, path, json=body, headers=callers[tenant] | headers)

    async with tenant_session(database, dsn, "acme") as session:
        async with held(session, statements):
            waiting = [asyncio.create_task(call("acme")) for _ in range(CALLS)]
            for _ in range(3):
                assert (await call("globex")).status_code in (200, 202, 204)
            assert not [task for task in waiting if task.done()]
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [status] * CALLS


async def test_a_record_that_a_tenant_holds_delays_only_calls_that_publish_it(
    closed_api: Client, database: Database, dsn: str, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_store, "HELD_SECONDS", 600)
    closed_api.timeout = httpx.Timeout(600)
    record_id = str(uuid_utils.uuid7())
    callers: dict[str, dict[str, str]] = {}
    for tenant in ("acme", "globex"):
        await sql.execute("select treadle.create_tenant($1)", tenant)
        await sql.execute("select treadle.create_topic('t', tenant => $1)", tenant)
        callers[tenant] = bearer((await create_key(closed_api, "publish", tenant=tenant))["key"])

    def publish(tenant: str, record: dict[str, Any]) -> Any:
        return closed_api.post("/topics/t/records", json={"records": [record]}, headers=callers[tenant])

    async with tenant_session(database, dsn, "acme") as session:
        async with held(session, [f"select treadle.publish('t', '1', record_id => '{record_id}')"]):
            held_up = {"value": 1, "record_id": record_id}
            waiting = [asyncio.create_task(publish("acme", held_up)) for _ in range(CALLS)]
            for tenant in ("globex", "acme") * 3:
                assert (await publish(tenant, {"value": 1})).status_code == 202
            assert not [task for task in waiting if task.done()]
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [202] * CALLS


@agent("keeps")
async def keeps(context: Context, text: str) -> str:
    await context.use_store([{"op": "put", **ITEM}])  # type: ignore[attr-defined]  # as the adapter of LangGraph calls it
    return "kept"


async def test_agents_of_a_tenant_whose_item_is_held_take_no_connection_from_others(
    closed_api: Client, start_worker: StartWorker, database: Database, dsn: str, sql: Connection
) -> None:
    await sql.execute("select treadle.create_tenant('acme'), treadle.create_tenant('globex')")
    await start_worker(keeps, echo)
    acme, globex = [
        bearer((await create_key(closed_api, "submit", "read", tenant=tenant))["key"]) for tenant in ("acme", "globex")
    ]
    messages = {"messages": [{"message": "x", "agent": "keeps"}] * CALLS}
    async with (
        tenant_session(database, dsn, "acme") as session,
        held(session, [f"select treadle.use_store('{PUT}')"]),
    ):
        assert (await closed_api.post("/messages/batch", json=messages, headers=acme)).status_code == 202
        await until(lambda: sql.fetchval(OF_KEEPS, "processing", CALLS))
        for _ in range(3):
            answer = await closed_api.post("/messages?wait=60", json={"message": "x"}, headers=globex)
            assert (answer.status_code, answer.json()["state"]) == (200, "completed")
        assert await sql.fetchval(OF_KEEPS, "processing", CALLS)
    await until(lambda: sql.fetchval(OF_KEEPS, "completed", CALLS))
