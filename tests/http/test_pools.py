"""Slow calls of one kind delay no call of another kind."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.access.principal import AUTH_OFF
from service.api import pools
from service.db.fair import FairDatabase, tenant_of_request
from service.db.pool import Connection
from service.inspection.store import InspectionStore
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, status_with
from tests.support.api_answers import problem
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.waiting import until

SLOW_READS = 12  # more than the connections of any kind

# A function that GET calls, and the address.
SLOW = {
    "a list": (
        "create or replace function treadle.thread_usage(thread bigint, out messages bigint, out usage jsonb)"
        " language sql as 'select 1, to_jsonb(pg_sleep(600)::text)'",
        "/threads/t/usage",
    ),
    "topics": (
        "create or replace function treadle._first_offset_since(topic bigint, at timestamptz) returns bigint"
        " language sql as 'select length(pg_sleep(600)::text)'",
        "/topics",
    ),
    "a message": (
        "create or replace function treadle.queue_position("
        "message_id uuid, tenant text default 'default', reach jsonb default null)"
        " returns bigint language sql as 'select length(pg_sleep(600)::text)'",
        "/messages/{id}/status",
    ),
}


@pytest.mark.parametrize("kind", SLOW)
async def test_slow_reads_delay_no_submit_stream_or_health_check(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection, kind: str
) -> None:
    await register_agents()
    api = await start_api()
    message_id = await api.submit("x", thread_id="t")
    await sql.execute("select treadle.create_topic('t')")
    statement, path = SLOW[kind]
    await sql.execute(statement)
    slow = [asyncio.create_task(api.get(path.format(id=message_id))) for _ in range(SLOW_READS)]
    busy = "select count(*) from pg_stat_activity where datname = current_database() and query like '%treadle.%'"
    await until(lambda: sql.fetchval(f"{busy} and wait_event = 'PgSleep'"), lambda count: count >= 3)
    await api.submit("y", thread_id="t")
    assert (await api.get("/health")).status_code == 200
    assert (await api.delete(f"/messages/{message_id}")).status_code == 200
    assert [event.type for event in await api.events(message_id)][-1] == "cancelled"
    assert await api.get("/threads/t") if kind == "a message" else await api.get(f"/messages/{message_id}/status")
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_list_that_takes_too_long_is_503(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "LIST_SECONDS", 0.2)
    await register_agents()
    api = await start_api()
    await api.submit("x", thread_id="t")
    await sql.execute(SLOW["a list"][0])
    for answer in await asyncio.gather(*(api.get("/threads/t/usage") for _ in range(SLOW_READS))):
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    # A list has its connections again, and where the machine is busy only some are read in 0.2 seconds.
    await until(lambda: api.get("/threads"), lambda answer: answer.status_code == 200)


async def test_slow_lists_of_a_tenant_leave_a_connection_to_others(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "LIST_SECONDS", 600.0)
    await register_agents()
    api = await start_api(**CLOSED)
    await sql.execute("select treadle.create_tenant('acme')")
    key = str((await create_key(api, "read", tenant="acme"))["key"])
    await api.post("/messages", json={"message": "x", "thread_id": "t"}, headers=bearer(ROOT_KEY))
    await sql.execute(SLOW["a list"][0])
    slow = [asyncio.create_task(api.get("/threads/t/usage", headers=bearer(ROOT_KEY))) for _ in range(SLOW_READS)]
    busy = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    await until(lambda: sql.fetchval(busy), lambda count: count == pools.LISTS_OF_TENANT)
    assert await status_with(api, key) == 200
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_slow_reads_of_a_tenant_delay_neither_other_tenants_nor_checks_of_keys(
    start_api: StartApi, register_agents: RegisterAgents, sql: Connection
) -> None:
    await register_agents()
    api = await start_api(**CLOSED)
    await sql.execute("select treadle.create_tenant('acme')")
    headers = bearer(ROOT_KEY)
    submitted = await api.post("/messages", json={"message": "x"}, headers=headers)
    path = SLOW["a message"][1].format(id=submitted.json()["message_id"])
    await sql.execute(SLOW["a message"][0])
    slow = [asyncio.create_task(api.get(path, headers=headers)) for _ in range(SLOW_READS)]
    busy = "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    await until(lambda: sql.fetchval(busy), lambda count: count == pools.READS_OF_TENANT)
    key = str((await create_key(api, "read", tenant="acme"))["key"])  # no process has read it yet
    assert await status_with(api, key, "/topics/none") == 404  # a read, too
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_shared_read_waits_in_the_line_of_the_tenant_that_asks(dsn: str) -> None:
    lines: list[tuple[str, str]] = []

    class Lists(FairDatabase):
        async def fetchrow(self, query: str, *args: Any, **more: Any) -> Any:
            lines.append((tenant_of_request.get(), args[3]))
            return await super().fetchrow(query, *args, **more)

    async def ask(store: InspectionStore, tenant: str, limit: int) -> None:
        tenant_of_request.set(tenant)
        await store.page(msgspec.structs.replace(AUTH_OFF, tenant=tenant), {}, before=None, limit=limit)

    lists = Lists(dsn, name="test", size=4, of_tenant=3)
    store = InspectionStore(lists)
    await asyncio.gather(*(ask(store, "default", limit) for limit in range(1, 5)), ask(store, "acme", 1))
    await lists.close()
    assert sorted(lines) == [("acme", "acme"), *[("default", "default")] * 4]
