"""Autovacuum passes for a minute over tables whose dead rows an old snapshot keeps."""

from typing import Any

import pytest

from tests.support.sql_client import SqlClient

pytestmark = pytest.mark.new_database

LEASES = "treadle.leases"
THRESHOLD = """
    select split_part(u, '=', 2)::integer from pg_class, unnest(reloptions) u
    where oid = 'treadle.leases'::regclass and u like 'autovacuum_vacuum_threshold=%'"""


async def threshold(sql_client: SqlClient) -> Any:
    return await sql_client.sql.fetchval(THRESHOLD)


async def pace(sql_client: SqlClient) -> Any:
    return await sql_client.sql.fetchval("select treadle.pace_vacuum(1000)")


async def work(sql_client: SqlClient, messages: int) -> None:
    await sql_client.submit_many(*[{}] * messages)
    await sql_client.finish(*await sql_client.claim(messages))
    await sql_client.sql.execute("select pg_stat_force_next_flush()")


async def test_a_table_that_is_vacuumed_for_nothing_is_left_alone_for_a_minute(sql_client: SqlClient) -> None:
    await sql_client.sql.execute(f"alter table {LEASES} set (autovacuum_enabled = off)")
    reader = await sql_client.connect()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await work(sql_client, 1500)
        await pace(sql_client)
        assert await threshold(sql_client) == 1000  # no vacuum has come yet
        await sql_client.sql.execute(f"vacuum {LEASES}")
        await pace(sql_client)
        assert await threshold(sql_client) == 3000
        await pace(sql_client)
        assert await threshold(sql_client) == 3000
        await sql_client.shift_clock(61)
        await pace(sql_client)
        assert await threshold(sql_client) == 1000
        await sql_client.sql.execute(f"vacuum {LEASES}")
        await pace(sql_client)
        assert await threshold(sql_client) == 3000
    await sql_client.shift_clock(122)
    await pace(sql_client)
    assert await threshold(sql_client) == 1000
    await sql_client.sql.execute(f"vacuum {LEASES}")
    await pace(sql_client)
    assert await threshold(sql_client) == 1000
    state = await sql_client.sql.fetchval("select value from treadle.meta where name = 'vacuum_pace'")
    assert LEASES not in state


async def test_the_pace_of_tables_that_vacuum_cleans_is_not_changed(sql_client: SqlClient) -> None:
    await sql_client.sql.execute(f"alter table {LEASES} set (autovacuum_enabled = off)")
    for _ in range(3):
        await work(sql_client, 1500)
        await pace(sql_client)
        await sql_client.sql.execute(f"vacuum {LEASES}")
        await work(sql_client, 1500)
        await pace(sql_client)
        assert await threshold(sql_client) == 1000


async def test_a_threshold_that_an_operator_has_changed_meanwhile_stays(sql_client: SqlClient) -> None:
    await sql_client.sql.execute(f"alter table {LEASES} set (autovacuum_enabled = off)")
    reader = await sql_client.connect()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await work(sql_client, 1500)
        await pace(sql_client)
        await sql_client.sql.execute(f"vacuum {LEASES}")
        await pace(sql_client)
        assert await threshold(sql_client) == 3000
        await sql_client.sql.execute(f"alter table {LEASES} set (autovacuum_vacuum_threshold = 7)")
        await sql_client.shift_clock(61)
        await pace(sql_client)
        assert await threshold(sql_client) == 7
