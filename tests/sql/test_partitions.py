"""The partitions of events and records: one a day, created ahead, dropped when old and empty.

The counts of `ensure` and `drop` are those of both tables; the others are of the event log.
"""

import asyncio
from datetime import date, datetime, time, timedelta
from uuid import UUID

import asyncpg
import pytest

from service.db.migrate import migrate
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


OF_EARLIER_DAYS = """
    select c.oid::regclass::text
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent in ('treadle.events'::regclass, 'treadle.records'::regclass)
        and substring(c.relname from '_(\\d{8})$') < $1"""


@pytest.fixture(autouse=True)
async def of_today(sql_client: SqlClient) -> None:
    """The partitions of a database that is migrated today: the run may have made its template before midnight."""
    await ensure(sql_client)
    [yesterday] = await days(sql_client, -1, -1)
    for row in await sql_client.sql.fetch(OF_EARLIER_DAYS, yesterday):
        await sql_client.sql.execute(f"drop table {row[0]}")


async def test_there_is_a_partition_for_every_day_from_yesterday_on(sql_client: SqlClient) -> None:
    assert await partitions(sql_client) == [*await days(sql_client, -1, 3), "default"]
    assert await ensure(sql_client) == 0
    await sql_client.shift_clock(86400)
    assert await ensure(sql_client) == 2
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
    assert await ensure(sql_client, 6) == 2 + 3
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
    assert await drop(sql_client, 7) == 1 + 3  # the day after; today's still holds something
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
        await janitor.sql.execute("set statement_timeout = '30s'")  # a chore that waited would end in this
        for chore in (ensure, drop):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await chore(janitor)
    await janitor.shift_clock(86400)
    assert await ensure(janitor) == 2
    assert await drop(janitor) > 0


async def test_two_janitors_may_tend_partitions_at_once(sql_client: SqlClient) -> None:
    others = [await sql_client.connect() for _ in range(3)]
    for other in others:
        await other.shift_clock(5 * 86400)
    made = await asyncio.gather(*(ensure(other) for other in others))
    assert sorted(made) == [0, 0, 10]
    dropped = await asyncio.gather(*(drop(other) for other in others))
    assert sorted(dropped) == [0, 0, 6 + 5]  # the ids of new records may be of yesterday


BOUNDS = """
    select c.relname as name,
        treadle._time_of((regexp_match(b, 'FROM \\(''([^'']+)'))[1]::uuid) at time zone 'UTC' as first,
        treadle._time_of((regexp_match(b, 'TO \\(''([^'']+)'))[1]::uuid) at time zone 'UTC' as next
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    cross join pg_get_expr(c.relpartbound, c.oid) b
    where i.inhparent = 'treadle.events'::regclass and b <> 'DEFAULT'"""


async def not_one_utc_day(sql_client: SqlClient) -> list[str]:
    """The partitions that do not hold the UTC day of their name."""
    return [
        row["name"]
        for row in await sql_client.sql.fetch(BOUNDS)
        if row["name"] != f"events_{row['first']:%Y%m%d}"
        or row["first"].time() != time()
        or row["next"] - row["first"] != timedelta(days=1)
    ]


async def go_to(sql_client: SqlClient, day: str) -> None:
    """Move the clock to noon of that day, in UTC."""
    away = "extract(epoch from ($1 || ' 12:00+00')::text::timestamptz - clock_timestamp())"
    await sql_client.shift_clock(float(await sql_client.sql.fetchval(f"select {away}", day)))


@pytest.mark.parametrize(
    ("zone", "days"),
    [
        ("Europe/Berlin", [f"2027-03-{day}" for day in range(24, 32)]),
        ("America/New_York", [f"2027-11-{day:02}" for day in range(2, 12)]),
        ("Australia/Lord_Howe", [f"2027-04-{day:02}" for day in range(1, 8)]),  # half an hour
        ("Pacific/Apia", [f"2011-12-{day}" for day in range(26, 32)]),  # a day that did not exist
    ],
)
async def test_each_partition_is_one_utc_day_around_a_change_of_the_clocks(
    sql_client: SqlClient, zone: str, days: list[str]
) -> None:
    await sql_client.sql.execute(f"set timezone = '{zone}'")
    for day in days:
        await go_to(sql_client, day)
        await ensure(sql_client)
    assert await not_one_utc_day(sql_client) == []
    assert {f"{day:%Y%m%d}" for day in map(date.fromisoformat, days)} <= set(await partitions(sql_client))


async def test_a_shift_of_days_is_a_multiple_of_24_hours_in_every_zone(sql_client: SqlClient) -> None:
    for zone in ("UTC", "Europe/Berlin"):
        await sql_client.sql.execute(f"set timezone = '{zone}'; set treadle.clock_shift = '200 days'")
        seconds = await sql_client.sql.fetchval("select extract(epoch from treadle.clock() - clock_timestamp())")
        assert round(seconds) == 200 * 86400


async def make_partition(sql_client: SqlClient, name: str, first: str, next: str) -> None:
    await sql_client.sql.execute(
        f"do $$ begin execute format('create table treadle.{name} partition of treadle.events for values"
        f" from (%L) to (%L)', treadle.uuid_at('{first}'), treadle.uuid_at('{next}')); end $$"
    )


async def test_empty_partitions_with_other_bounds_are_replaced(sql_client: SqlClient) -> None:
    """As a release that cut days by the server's time zone left them, also across several days."""
    await make_partition(sql_client, "events_20270327", "2027-03-26 23:00Z", "2027-03-27 23:00Z")
    await make_partition(sql_client, "events_20270328", "2027-03-27 23:00Z", "2027-03-28 22:00Z")
    await make_partition(sql_client, "by_hand", "2027-03-30 01:00Z", "2027-04-02 00:00Z")
    await go_to(sql_client, "2027-03-28")
    assert await ensure(sql_client) == 10
    assert await not_one_utc_day(sql_client) == []


async def test_partitions_with_other_bounds_and_events_stay_and_stop_nothing(sql_client: SqlClient) -> None:
    """The other hours of their days go to the default partition."""
    await make_partition(sql_client, "events_20270328", "2027-03-27 23:00Z", "2027-03-28 22:00Z")
    await make_partition(sql_client, "events_20270401", "2027-03-31 22:00Z", "2027-04-01 22:00Z")
    at = "select overlay(treadle.uuid7()::text placing left(treadle.uuid_at($1::text::timestamptz)::text, 13) from 1)"
    kept, late = [await sql_client.sql.fetchval(at, f"2027-03-28 {hour}:00Z") for hour in (12, 23)]
    await go_to(sql_client, "2027-03-28")
    kept = await sql_client.submit(message_id=kept)
    assert await ensure(sql_client) == 3 + 5  # of the 29th, 30th and 31st: the last one in the place of an empty one
    assert await not_one_utc_day(sql_client) == ["events_20270328"]
    assert await place(sql_client, kept) == "20270328"
    assert await place(sql_client, await sql_client.submit(message_id=late)) == "default"


async def test_a_migration_does_not_fail_for_a_partition(sql_client: SqlClient, dsn: str) -> None:
    reader = await sql_client.connect()
    database = dsn.rpartition("/")[2]
    await sql_client.sql.execute(f"alter database {database} set treadle.clock_shift = '30 days'")
    async with reader.sql.transaction():
        await reader.sql.fetch("select * from treadle.events")
        await migrate(dsn)
    await migrate(dsn)
    await sql_client.shift_clock(30 * 86400)
    assert await days(sql_client, -1, 3) == (await partitions(sql_client))[-6:-1]


async def test_times_in_json_are_utc_in_every_zone(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("set timezone = 'Asia/Kolkata'; set datestyle = 'German'")
    message_id = await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    await sql_client.finish(claim, outcome="error")
    await sql_client.shift_clock(60)
    await sql_client.sql.execute("select admitted from treadle.admit_due()")
    await sql_client.finish(await sql_client.claim_one(), outcome="rejected")
    answer = await sql_client.sql.fetchval(
        """select answer from treadle.submit_once('key', 'hash', '[{"message": "x"}]')"""
    )
    data = [data for _, data in await sql_client.log(message_id) if data]
    times = [answer[0]["created_at"], *(d[key] for d in data for key in ("retry_at", "completed_at") if key in d)]
    assert len(times) == 3
    assert [datetime.fromisoformat(time).utcoffset() for time in times] == [timedelta(0)] * 3
