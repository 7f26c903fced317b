"""Tenants in SQL: every row carries the tenant of its message, and equal names of two tenants name two things."""

from service.db.pool import Connection
from tests.support.sql_client import SqlClient
from tests.support.tenant_walk import walk

TENANTS = ("default", "acme")


async def test_every_row_has_the_tenant_of_its_message(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    for tenant in TENANTS:
        await walk(sql_client, tenant)
    figures = {
        row["tenant"]: tuple(row)[1:]
        for row in await sql_client.sql.fetch(
            "select tenant, sum(queued), sum(processing), sum(completed), sum(failed), sum(cancelled)"
            " from treadle.counters group by tenant"
        )
    }
    assert figures["default"] == figures["acme"] == (2, 3, 4, 0, 2)
    for table in ("messages", "events", "leases", "threads", "thread_turns", "thread_log"):
        rows = await sql_client.sql.fetch(f"select tenant, count(*) from treadle.{table} group by tenant")
        assert {row["tenant"] for row in rows} == set(TENANTS), table
        assert len({row["count"] for row in rows}) == 1, table


async def test_a_submit_asks_nothing_about_a_tenant_that_is_active_and_unlimited(sql: Connection) -> None:
    async def plain() -> list[bool]:
        names = ["default", "acme", "unknown"]
        return [await sql.fetchval("select treadle._is_plain($1)", name) for name in names]

    assert await plain() == [True, False, False]
    await sql.execute("select treadle.limit_tenant('default', '{\"queued\": 5}')")
    assert await plain() == [False, False, False]
    await sql.execute("select treadle.limit_tenant('default', null), treadle.create_tenant('acme')")
    assert await plain() == [True, True, False]
    await sql.execute("select treadle.limit_tenant('acme', '{\"queued\": 5}')")
    assert await plain() == [True, False, False]
    await sql.execute("select treadle.limit_tenant('acme', null), treadle.suspend_tenant('default')")
    assert await plain() == [False, True, False]
    await sql.execute("select treadle.delete_tenant('acme'), treadle.suspend_tenant('default', false)")
    assert await plain() == [True, False, False]
