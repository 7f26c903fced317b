"""A worker serves all tenants, or those of its TENANTS; what an agent does stays in the tenant of its message."""

import json
from typing import Any
from uuid import UUID

from service.db.pool import Connection
from tests.support.agents import double
from tests.support.fixture_types import StartWorker
from tests.support.invariants import assert_consistent
from tests.support.messages import settled
from treadle import Context, agent

TENANTS = ("acme", "globex")


async def submit(sql: Connection, tenant: str, **fields: Any) -> UUID:
    if not await sql.fetchval("select exists (select from treadle.tenants where tenant = $1)", tenant):
        await sql.execute("select treadle.create_tenant($1)", tenant)
    message = json.dumps([{"message": "x", **fields}])
    found: UUID = await sql.fetchval(
        "select message_id from treadle.submit_many($1, tenant => $2, notify => true)", message, tenant
    )
    return found


async def test_instances_memory_and_history_belong_to_one_tenant(sql: Connection, start_worker: StartWorker) -> None:
    """In threads of the same id, one after the other."""
    made: list[str] = []

    @agent("remembers", idle_timeout=60.0)
    async def remembers(context: Context, text: str) -> list[Any]:
        def make() -> str:
            made.append(context.tenant)
            return context.tenant

        owner = await context.instance(make)
        context.memory.setdefault("seen", []).append(context.tenant)
        return [owner, context.memory["seen"], len(await context.history())]

    await start_worker(remembers)
    for turn in (1, 2):
        for tenant in TENANTS:
            row = await settled(sql, await submit(sql, tenant, agent="remembers", thread_id="t"))
            assert row["result"] == [tenant, [tenant] * turn, turn - 1]
    assert made == list(TENANTS)


async def test_what_an_agent_sends_stays_in_its_tenant(sql: Connection, start_worker: StartWorker) -> None:
    @agent("sends")
    async def sends(context: Context, text: str) -> Any:
        return await context.gather(await context.send(context.tenant, agent="double", thread_id="inbox"))

    await start_worker(sends, double)
    for tenant in TENANTS:
        assert (await settled(sql, await submit(sql, tenant, agent="sends")))["result"] == [tenant * 2]
    rows = await sql.fetch(
        "select t.tenant, array_agg(m.tenant) as of_messages from treadle.threads t"
        " join treadle.messages m on m.thread = t.id where t.thread_id = 'inbox' group by t.tenant order by t.tenant"
    )
    assert [tuple(row) for row in rows] == [(tenant, [tenant]) for tenant in TENANTS]
    await assert_consistent(sql)


async def test_a_worker_of_some_tenants_claims_of_no_other(sql: Connection, start_worker: StartWorker) -> None:
    await start_worker(tenants=("acme",))
    left = [await submit(sql, "globex", thread_id="t") for _ in range(3)]
    own = await submit(sql, "acme", thread_id="t")
    assert (await settled(sql, own))["state"] == "completed"
    assert await sql.fetchval("select count(*) from treadle.messages where attempt > 0") == 1
    await start_worker(tenants=("globex",))
    for message_id in left:
        assert (await settled(sql, message_id))["state"] == "completed"
