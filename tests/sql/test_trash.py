"""Long logs: a deleted message or thread disappears at once, and its events are deleted in chunks."""

from typing import Any
from uuid import UUID

import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

DAY = 86400
LIMIT = 50_000  # events that one call deletes


async def number(sql_client: SqlClient, query: str, *arguments: Any) -> int:
    return int(await sql_client.sql.fetchval(query, *arguments))


async def lengthen(sql_client: SqlClient, message_id: UUID, events: int) -> None:
    """Appends so many events to a running message."""
    await sql_client.sql.execute(
        "with l as (update treadle.leases set last_seq = last_seq + $2 where message_id = $1 returning *),"
        " t as (update treadle.thread_log t set last_pos = last_pos + $2, era = (last_pos + $2) / 16"
        " from l where t.thread = l.thread"
        " returning t.*)"
        " insert into treadle.events (tenant, message_id, seq, thread, thread_pos, type, data, created_at)"
        " select 'default', $1, l.last_seq - $2 + n, l.thread, t.last_pos - $2 + n, 'chunk', '{}', now()"
        " from l left join t on true, generate_series(1, $2) n",
        message_id,
        events,
    )


async def long_one(sql_client: SqlClient, events: int, **fields: Any) -> UUID:
    """A completed message with so many events besides its five."""
    message_id = await sql_client.submit(**fields)
    claim = await sql_client.claim_one()
    await lengthen(sql_client, message_id, events)
    await sql_client.finish(claim, first_seq=claim.last_seq + events + 1)
    return message_id


async def events(sql_client: SqlClient) -> int:
    return await number(sql_client, "select count(*) from treadle.events")


async def trash(sql_client: SqlClient) -> list[UUID]:
    return [row["message_id"] for row in await sql_client.sql.fetch("table treadle.trash")]


async def test_a_long_thread_is_deleted_at_once_and_its_events_in_chunks(sql_client: SqlClient) -> None:
    short = await sql_client.submit(thread_id="t")
    await sql_client.run()
    long = await long_one(sql_client, 2 * LIMIT, thread_id="t")
    running = await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    other = await sql_client.submit()
    thread = (await sql_client.thread("t"))["id"]
    assert await number(sql_client, "select treadle.delete_thread('t')") == 3
    assert await trash(sql_client) == [long]  # the short logs are gone already
    assert await events(sql_client) == 2 * LIMIT + 3 + 1
    assert await number(sql_client, "select count(*) from treadle.messages") == 1
    await assert_consistent(sql_client.sql)
    # After its remaining events, a reader is told that the message does not exist.
    for message_id in (short, long, running):
        read = await sql_client.sql.fetch("select type from treadle.read_events(array[$1::uuid], '{9}', 2)", message_id)
        assert read[-1]["type"] is None
    read = await sql_client.sql.fetch("select type from treadle.read_events(null, '{9}', 2, array[$1::bigint])", thread)
    assert read[-1]["type"] is None
    assert await sql_client.finish(claim) == ["lost"]
    # A new thread of this name has none of its events.
    await sql_client.submit(thread_id="t")
    assert (await sql_client.thread("t"))["last_ord"] == 1
    for purged, left in ((LIMIT, LIMIT + 3), (LIMIT, 3), (3, 0), (0, 0)):
        assert await number(sql_client, "select purged from treadle.purge(24, 24)") == purged
        assert await number(sql_client, "select count(*) from treadle.events where message_id = $1", long) == left
        await assert_consistent(sql_client.sql)
    assert await trash(sql_client) == []
    assert await sql_client.log(other) != []


async def test_purge_deletes_a_long_log_in_chunks(sql_client: SqlClient) -> None:
    ids = [await long_one(sql_client, size) for size in (10, 40, 200)]
    ids.append(await long_one(sql_client, 300, thread_id="t"))
    await sql_client.shift_clock(2 * DAY)
    row = await fetch_row(sql_client.sql, "select * from treadle.purge(24, 24, null, 4)")
    assert row["purged"] == 4
    assert sorted(await trash(sql_client)) == sorted(ids[2:])  # the short ones went whole: a hundred events in all
    await assert_consistent(sql_client.sql)
    purged = []
    while True:
        row = await fetch_row(sql_client.sql, "select * from treadle.purge(24, 24, $1, 4)", row["last"])
        await assert_consistent(sql_client.sql)
        if not row["purged"]:
            break
        purged.append(row["purged"])
    assert max(purged) == 100
    assert sum(purged) == 203 + 303
    assert await events(sql_client) == 0


async def test_many_short_logs_of_the_trash_are_deleted_together(sql_client: SqlClient) -> None:
    await long_one(sql_client, 0)
    await sql_client.submit_many(*[{"thread_id": "t"}] * 9)
    await sql_client.sql.execute("select treadle._forget(array(select message_id from treadle.messages), 0)")
    assert len(await trash(sql_client)) == 10
    await sql_client.sql.execute(
        "delete from treadle.thread_log; delete from treadle.thread_turns; delete from treadle.threads"
    )
    await assert_consistent(sql_client.sql)
    assert await number(sql_client, "select treadle._empty_trash(9)") == 9
    assert await number(sql_client, "select treadle._empty_trash(9)") == 3
    assert await events(sql_client) == 0


async def test_an_id_in_the_trash_cannot_be_submitted(sql_client: SqlClient) -> None:
    """Its log would be that of another message."""
    message_id = await long_one(sql_client, 2 * LIMIT, thread_id="t")
    await sql_client.sql.execute("select treadle.delete_thread('t')")
    with pytest.raises(Exception, match=f"The message_id {message_id} was used before") as refused:
        await sql_client.submit(message_id=str(message_id))
    assert getattr(refused.value, "sqlstate", None) == "TR409"


async def test_one_janitor_purges_at_a_time(sql_client: SqlClient) -> None:
    await sql_client.submit()
    await sql_client.run()
    await sql_client.shift_clock(2 * DAY)
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select treadle.purge(1000, 1000)")
        row = await fetch_row(sql_client.sql, "select * from treadle.purge(24, 24)")
        assert (row["purged"], row["last"]) == (0, None)
    assert await number(sql_client, "select purged from treadle.purge(24, 24)") == 1


async def test_purge_looks_at_kept_rows_once(sql_client: SqlClient) -> None:
    """The cursor passes threads and messages that are kept, and finds expired ones after them."""
    await sql_client.sql.execute(f"set treadle.clock_shift = '-{9 * DAY} seconds'")
    for n in range(5):
        await sql_client.submit(thread_id=f"failed {n}", message_id=await id_of(sql_client))
    await sql_client.run(outcome="rejected")
    await sql_client.sql.execute(f"set treadle.clock_shift = '-{8 * DAY} seconds'")
    done = [await id_of(sql_client) for _ in range(2)]
    await sql_client.submit(message_id=done[0])
    await sql_client.submit(message_id=done[1], thread_id="done")
    await sql_client.run()
    await sql_client.sql.execute(f"set treadle.clock_shift = '-{7 * DAY} seconds'")
    last, rounds = None, 0
    while True:
        row = await fetch_row(sql_client.sql, "select * from treadle.purge(48, 10000, $1, 3)", last)
        if row["last"] is None:
            break
        last = row["last"]
        rounds += 1
    assert rounds >= 2
    assert await number(sql_client, "select count(*) from treadle.messages") == 7
    await sql_client.sql.execute(f"set treadle.clock_shift = '-{5 * DAY} seconds'")
    purged = 0
    while True:
        row = await fetch_row(sql_client.sql, "select * from treadle.purge(48, 10000, $1, 3)", last)
        if row["last"] is None:
            break
        purged += row["purged"]
        last = row["last"]
    assert purged + row["purged"] == 2
    row = await fetch_row(sql_client.sql, "select * from treadle.purge(48, 1, $1, 100)", last)
    assert row["purged"] == 0  # dead letters that stay no longer: for the next look at everything
    assert await number(sql_client, "select purged from treadle.purge(48, 1, null, 100)") == 5


async def id_of(sql_client: SqlClient) -> str:
    """An id of the present time."""
    return str(
        await sql_client.sql.fetchval(
            "select overlay(treadle.uuid7()::text placing left(treadle.uuid_at(treadle.clock())::text, 13) from 1)"
        )
    )
