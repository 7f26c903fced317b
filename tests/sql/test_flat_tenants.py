"""Shares and limits of tenants cost no more beside dead rows that an old snapshot keeps."""

import pytest

from tests.support.low_water import DEAD, FILL_LANE, LANE, buffers, low, sweep, sweep_past
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

pytestmark = pytest.mark.new_database


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


async def test_rows_of_a_tenant_at_its_limit_keep_no_mark_back(sql_client: SqlClient) -> None:
    claim, most = "select * from treadle.claim('w', '{default}', 1, 60)", 150
    await sql_client.sql.execute(
        "select treadle.create_tenant('acme'), treadle.limit_tenant('acme', '{\"running\": 3}')"
    )
    rows = await sql_client.submit_many({}, {}, {}, {"message": "4"}, {"message": "5"}, tenant="acme")
    running = await sql_client.claim(10)
    reader = await sql_client.connect()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await sql_client.sql.execute(FILL_LANE)
        await sql_client.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
        await sql_client.submit()
        await sweep(sql_client)
        before = await buffers(sql_client, claim)
        assert before > 2 * most  # so it would be without
        await sql_client.sql.execute("select treadle.admit_due()")
        await sweep_past(sql_client, DEAD)
        assert await buffers(sql_client, claim) <= most
    await sql_client.finish(*running)
    others = [claim.message_id for claim in await sql_client.claim(10) if claim.tenant == "acme"]
    assert others == [row["message_id"] for row in rows[3:]]
