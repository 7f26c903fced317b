"""Tenants in SQL: every row carries the tenant of its message, and equal names of two tenants name two things."""

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
