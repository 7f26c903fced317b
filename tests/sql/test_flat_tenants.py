"""Shares and limits of tenants cost no more beside dead rows that an old snapshot keeps."""

from tests.support.low_water import DEAD, buffers, low
from tests.support.sql_client import SqlClient
from tests.support.waiting import until


async def test_dead_deltas_of_shares_cost_nothing(sql_client: SqlClient) -> None:
    call, most = 'select * from treadle.submit_many(\'[{"message": "x"}]\')', 300

    async def tend() -> int:
        await sql_client.sql.execute("select treadle.admit_due()")
        return await low(sql_client, "lane_shares")

    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    user, reader = await sql_client.connect(), await sql_client.connect()
    async with user.sql.transaction(), reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await user.submit()
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await sql_client.sql.execute(
            "insert into treadle.lane_shares (tenant, queue, lane, ready)"
            f" select 'default', 'default', 'normal', 0 from generate_series(1, {DEAD})"
        )
        await tend()
        before = await buffers(sql_client, call)
        assert before > 2 * most  # so it would be without
        await until(tend, lambda mark: mark > DEAD)
        assert await buffers(sql_client, call) <= most
    await until(tend, lambda mark: mark > DEAD)
    assert await sql_client.sql.fetchval("select sum(ready) from treadle.lane_shares") == 1
    assert await sql_client.sql.fetchval("select count(*) from treadle.low_water where passed <> '{}'") == 0
