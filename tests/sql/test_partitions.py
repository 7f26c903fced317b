"""The event log's partitions: one a day, created ahead, dropped when old and empty."""

import asyncio
from uuid import UUID

import asyncpg
import pytest

from tests.support.sql_client import SqlClient


async def partitions(sql_client: SqlClient) -> list[str]:
    rows = await sql_client.sql.fetch(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'treadle.events'::regclass order by 1"
    )
    return [row["relname"].removeprefix("events_") for row in rows]


async def days(sql_client: SqlClient, first: int, last: int) -> list[str]:
    rows = await sql_client.sql.fetch(
        "select to_char(treadle.clock() at time zone 'UTC' + make_interval(days => d), 'YYYYMMDD')"
        " from generate_series($1::integer, $2::integer) d",
        first,
        last,
    )
    return [row[0] for row in rows]


async def place(sql_client: SqlClient, message_id: UUID) -> str:
    name = await sql_client.sql.fetchval(
        "select distinct c.relname from treadle.events e join pg_class c on c.oid = e.tableoid where message_id = $1",
        message_id,
    )
    return str(name).removeprefix("events_")


async def ensure(sql_client: SqlClient, days: int = 3) -> int:
    return int(await sql_client.sql.fetchval("select treadle.ensure_partitions($1)", days))


async def drop(sql_client: SqlClient, days_ago: float = 0) -> int:
    return int(
        await sql_client.sql.fetchval(
            "select treadle.drop_partitions(treadle.clock() - make_interval(secs => $1 * 86400))", days_ago
        )
    )


async def test_there_is_a_partition_for_every_day_from_yesterday_on(sql_client: SqlClient) -> None:
    assert await partitions(sql_client) == [*await days(sql_client, -1, 3), "default"]
    assert await ensure(sql_client) == 0
    await sql_client.shift_clock(86400)
    assert await ensure(sql_client) == 1
    assert await partitions(sql_client) == [*await days(sql_client, -2, 3), "default"]
    assert (
        await place(sql_client, await sql_client.submit()) == (await days(sql_client, -1, -1))[0]
    )  # ids keep to the true time


async def test_an_event_is_in_the_partition_of_its_message_id(sql_client: SqlClient) -> None:
    async def submit(day: int) -> UUID:
        id = await sql_client.sql.fetchval(
            "select overlay(treadle.uuid7()::text placing"
            " left(treadle.uuid_at(treadle.clock() + make_interval(days => $1))::text, 13) from 1)",
            day,
        )
        await sql_client.shift_clock(max(day, 0) * 86400)  # ids from far ahead are refused
        message_id = await sql_client.submit(message_id=id)
        await sql_client.shift_clock(0)
        return message_id

    for day in (-1, 0, 3):
        assert [await place(sql_client, await submit(day))] == await days(sql_client, day, day)
    for day in (-2, 4):
        assert await place(sql_client, await submit(day)) == "default"
    # A day whose first events are in the default partition stays there; other days get a partition.
    assert await ensure(sql_client, 6) == 2
    assert await partitions(sql_client) == [*await days(sql_client, -1, 3), *await days(sql_client, 5, 6), "default"]
    assert await place(sql_client, await submit(4)) == "default"
    await sql_client.shift_clock(4 * 86400)
    await sql_client.run()


async def test_a_partition_has_the_keys_of_the_table(sql_client: SqlClient) -> None:
    await sql_client.shift_clock(30 * 86400)
    await ensure(sql_client)
    rows = await sql_client.sql.fetch(
        "select c.relname as name, array_agg(i.indkey::text order by i.indkey::text) as keys from pg_inherits h"
        " join pg_class c on c.oid = h.inhrelid join pg_index i on i.indrelid = c.oid"
        " where h.inhparent = 'treadle.events'::regclass group by 1"
    )
    assert len(rows) == 11
    assert {tuple(row["keys"]) for row in rows} == {("1 2", "4 5")}


async def test_only_old_and_empty_partitions_are_dropped(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.run()
    today = (await days(sql_client, 0, 0))[0]
    assert await drop(sql_client) == 1
    assert await partitions(sql_client) == [*await days(sql_client, 0, 3), "default"]
    await sql_client.shift_clock(9 * 86400)
    await ensure(sql_client)
    assert await drop(sql_client, 7) == 1  # the day after; today's still holds something
    assert today in await partitions(sql_client)
    await sql_client.sql.execute("select treadle.purge(24, 24)")
    assert await drop(sql_client, 7) == 1
    assert today not in await partitions(sql_client)
    assert await sql_client.sql.fetchval("select count(*) from treadle.messages where message_id = $1", message_id) == 0


async def test_partition_chores_do_not_block_the_log(sql_client: SqlClient) -> None:
    """While a long transaction reads the log the chores give up, because a waiting lock would block every reader."""
    reader, janitor = await sql_client.connect(), await sql_client.connect()
    async with reader.sql.transaction():
        await reader.sql.fetch("select * from treadle.events")
        await janitor.shift_clock(86400)
        await janitor.sql.execute("set statement_timeout = '5s'")  # a chore that waited would end in this
        for chore in (ensure, drop):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await chore(janitor)
    await janitor.shift_clock(86400)
    assert await ensure(janitor) == 1
    assert await drop(janitor) > 0


async def test_two_janitors_may_tend_partitions_at_once(sql_client: SqlClient) -> None:
    others = [await sql_client.connect() for _ in range(3)]
    for other in others:
        await other.shift_clock(5 * 86400)
    made = await asyncio.gather(*(ensure(other) for other in others))
    assert sorted(made) == [0, 0, 5]
    dropped = await asyncio.gather(*(drop(other) for other in others))
    assert sorted(dropped) == [0, 0, 6]
