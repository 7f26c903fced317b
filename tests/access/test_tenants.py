"""Tenants beside each other, over HTTP."""

import asyncio
from typing import Any

import asyncpg
import pytest

from service.access.principal import Principal
from service.db.pool import Connection
from service.messages.store import MessageStore
from tests.support.access import bearer, create_key
from tests.support.api_client import Client

TENANTS = ("acme", "globex")


@pytest.fixture
async def keys(closed_api: Client, sql: Connection) -> dict[str, str]:
    """A key of each tenant."""
    for tenant in TENANTS:
        await sql.fetchval("select treadle.create_tenant($1)", tenant)
    return {
        tenant: (await create_key(closed_api, "submit", "read", "operate", tenant=tenant))["key"] for tenant in TENANTS
    }


async def submit(api: Client, key: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/messages", json={"message": "x", **fields}, headers=bearer(key))
    return {"status": answer.status_code, **answer.json()}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for a held thread without limit, in an API that starts later."""
    monkeypatch.setattr("service.messages.store.HELD_SECONDS", 600)


@pytest.mark.usefixtures("patient")
async def test_a_held_thread_delays_no_thread_of_another_tenant(
    closed_api: Client, keys: dict[str, str], dsn: str
) -> None:
    """Though both have the same id: the line of those that wait for it is of one tenant."""
    acme, globex = keys.values()
    for key in (acme, globex):
        assert (await submit(closed_api, key, thread_id="t"))["status"] == 202
    holder = await asyncpg.connect(dsn)
    async with holder.transaction():
        await holder.execute("select from treadle.threads where tenant = 'acme' for update")
        waiting = [asyncio.create_task(submit(closed_api, acme, thread_id="t")) for _ in range(3)]
        for _ in range(3):
            assert (await submit(closed_api, globex, thread_id="t"))["status"] == 202
        deleted = await closed_api.delete("/threads/t", headers=bearer(globex))
        assert deleted.status_code == 204
        assert not any(task.done() for task in waiting)
    assert [answer["status"] for answer in await asyncio.gather(*waiting)] == [202] * 3
    await holder.close()


async def test_submits_of_a_tenant_share_a_call(
    closed_api: Client, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, sql: Connection
) -> None:
    tenants: list[str] = []
    call = MessageStore._call

    async def noted(self: MessageStore, principal: Principal, *batch: Any, **more: Any) -> Any:
        tenants.append(principal.tenant)
        return await call(self, principal, *batch, **more)

    monkeypatch.setattr(MessageStore, "_call", noted)
    answers = await asyncio.gather(*(submit(closed_api, key) for _ in range(100) for key in keys.values()))
    assert {answer["status"] for answer in answers} == {202}
    assert len(tenants) < 100
    for tenant in TENANTS:
        assert tenant in tenants
        assert await sql.fetchval("select count(*) from treadle.messages where tenant = $1", tenant) == 100


async def test_each_tenant_has_its_own_keys_and_figures(closed_api: Client, keys: dict[str, str]) -> None:
    manager = (await create_key(closed_api, "admin", "read", tenant="acme"))["key"]
    await submit(closed_api, keys["globex"])
    listed = (await closed_api.get("/keys", headers=bearer(manager))).json()
    assert {key["tenant"] for key in listed} == {"acme"}
    overview = (await closed_api.get("/queue", headers=bearer(keys["acme"]))).json()
    assert (overview["total_queued"], overview["queued_messages"]) == (0, [])
    [queue] = (await closed_api.get("/queues", headers=bearer(keys["acme"]))).json()
    assert queue["depth"] == 0
    other = next(key["key_id"] for key in listed)
    stranger = (await create_key(closed_api, "admin", tenant="globex"))["key"]
    for key_id in (other, "000000000000"):
        answer = await closed_api.delete(f"/keys/{key_id}", headers=bearer(stranger))
        assert (answer.status_code, answer.json()["detail"]) == (404, f"There is no key '{key_id}'.")
    foreign = {"scopes": ["admin"], "tenant": "acme"}
    assert (await closed_api.post("/keys", json=foreign, headers=bearer(stranger))).status_code == 403


async def test_a_suspended_tenant_submits_nothing(closed_api: Client, keys: dict[str, str], sql: Connection) -> None:
    await sql.execute("select treadle.suspend_tenant('acme')")
    refused = await submit(closed_api, keys["acme"])
    assert (refused["status"], refused["title"]) == (403, "Forbidden")
    assert (await submit(closed_api, keys["globex"]))["status"] == 202
