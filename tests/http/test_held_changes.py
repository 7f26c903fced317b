"""Changes of topics, keys and the like that find a row held delay no other call."""

import asyncio

import httpx
import pytest

from service.api.pools import CALL_CONNECTIONS, CHANGE_CONNECTIONS
from service.db import patient
from service.db.fair import tenant_of_request
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi

CALLS = CALL_CONNECTIONS + 5
# What another transaction holds, and the call that needs it.
HELD = {
    "a queue": ("select treadle.pause('default')", ("POST", "/queues/default/resume", None)),
    "a topic": ("select from treadle.topics for update", ("PUT", "/topics/t", {"retention_hours": 5})),
    "a subscription": ("select from treadle.subscriptions for update", ("POST", "/subscriptions/s/pause", None)),
    "a webhook": ("select from treadle.webhooks for update", ("PATCH", "/webhooks/{webhook}", {"enabled": False})),
    "the secret of callbacks": ("lock table treadle.callback_secrets", ("GET", "/webhooks/callback-secret", None)),
    "a key": ("select from treadle.keys for update", ("DELETE", "/keys/{key}", None)),
    "a rule of schemas": (
        "select treadle.set_schema_rule('x', 'compatibility', 'NONE')",
        ("PUT", "/schema-registry/config/x", {"compatibility": "FULL"}),
    ),
    "a tenant": (
        "select from treadle.tenants where tenant = 'acme' for no key update",
        ("POST", "/tenants/acme/suspend", None),
    ),
    "a new tenant": ("select treadle.create_tenant('new')", ("POST", "/tenants", {"tenant": "new"})),
}


@pytest.mark.parametrize("kind", HELD)
async def test_a_held_change_delays_no_other_call(
    kind: str,
    start_api: StartApi,
    register_agents: RegisterAgents,
    sql: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patient, "HELD_SECONDS", 600)
    await register_agents()
    api = await start_api()
    api.timeout = httpx.Timeout(600)
    await sql.execute("select treadle.create_tenant('acme'), treadle.create_topic('t')")
    await sql.execute("select treadle.create_subscription('s', array['t'], 'echo')")
    await sql.execute("select treadle.create_key(repeat('k', 12), sha256('k'), 'default', 'k', '{read}')")
    webhook = (await api.post("/webhooks", json={"url": "https://example.com/"})).json()["webhook_id"]
    statement, (method, path, body) = HELD[kind]

    async def call() -> int:
        return (await api.request(method, path.format(webhook=webhook, key="k" * 12), json=body)).status_code

    async with sql.transaction():
        await sql.execute(statement)
        waiting = [asyncio.create_task(call()) for _ in range(CALLS)]
        await other_calls(api, kind)
        assert not [task for task in waiting if task.done()]
    assert set(await asyncio.gather(*waiting)) <= ({409} if kind == "a new tenant" else {200, 204})


async def other_calls(api: Client, kind: str) -> None:
    for number in range(3):
        await api.submit("x")
        change = ("POST", "/tenants") if kind == "a topic" else ("PUT", f"/topics/{number}")
        body = {"tenant": f"t{number}"} if kind == "a topic" else {}
        answer = await api.request(*change, json=body)
        assert answer.status_code == 201, answer.text


async def test_slow_changes_of_a_tenant_leave_a_connection_to_those_of_others(dsn: str, sql: Connection) -> None:
    changes = patient.PatientDatabase(dsn, name="changes", size=CHANGE_CONNECTIONS)
    async with sql.transaction():
        await sql.execute("lock table treadle.callback_secrets")
        tenant_of_request.set("acme")
        slow = [
            asyncio.create_task(changes.fetchval("select count(*) + $1 from treadle.callback_secrets", number))
            for number in range(2)
        ]
        tenant_of_request.set("globex")
        await asyncio.sleep(0)  # both ask
        assert await changes.fetchval("select 1") == 1
        assert not [task for task in slow if task.done()]
    assert await asyncio.gather(*slow) == [0, 1]
    await changes.close()
