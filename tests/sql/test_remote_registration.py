"""How many remote workers a tenant may have."""

import asyncpg
import pytest

from tests.support.sql_client import SqlClient

AGENTS = '[{"agent": "echo", "queue": "default", "timeout_seconds": 60, "max_attempts": 3}]'
REGISTER = f"select treadle.remote_register($1, $2, 'host', 1, '{AGENTS}', 10, $1 = 'default')"
FILL = """
    insert into treadle.workers (
        worker_id, host, pid, queues, concurrency, started_at, heartbeat_at, reported_at, beating_since, serves)
    select 'w' || n, 'host', 1, '{default}', 1, now(), now(), now(), now(), $1
    from generate_series(1, $2::integer) n"""


@pytest.mark.parametrize("tenant", ["default", "acme"])
async def test_a_tenant_has_a_bounded_number_of_remote_workers(sql_client: SqlClient, tenant: str) -> None:
    sql = sql_client.sql
    await sql.execute("select treadle.create_tenant('acme'), treadle.create_tenant('other')")
    await sql.execute(FILL, tenant, 999)
    assert await sql.fetchval(REGISTER, tenant, "last") == ["default"]
    with pytest.raises(asyncpg.PostgresError, match="at most 1000 remote workers: let one sign off") as raised:
        await sql.fetchval(REGISTER, tenant, "more")
    assert raised.value.sqlstate == "TR409"
    assert await sql.fetchval(REGISTER, tenant, "last") == ["default"]  # its answer was lost
    assert await sql.fetchval(REGISTER, "other", "first") == ["default"]
    await sql.execute("select treadle.remote_sign_off($1, 'last')", tenant)
    assert await sql.fetchval(REGISTER, tenant, "more") == ["default"]


async def test_a_registration_waits_for_no_other_transaction(sql_client: SqlClient) -> None:
    """All tenants' workers use the same connections."""
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    other = await sql_client.connect()
    async with sql_client.sql.transaction():
        await sql_client.sql.fetchval(REGISTER, "acme", "first")
        await sql_client.sql.execute("""select treadle.limit_tenant('acme', '{"queued": 10}')""")
        assert await other.sql.fetchval(REGISTER, "acme", "second") == ["default"]
