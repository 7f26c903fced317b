"""Shares: one tenant's flood delays another tenant's messages by one share at most."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from tests.support.low_water import buffers
from tests.support.sql_client import SqlClient

SHARE = 200
FIRST = 10


@pytest.fixture
async def shared(sql_client: SqlClient) -> SqlClient:
    """A client, with a second active tenant."""
    await sql_client.sql.execute("select treadle.create_tenant('quiet')")
    return sql_client


async def flood(client: SqlClient, quantity: int, **fields: Any) -> list[UUID]:
    rows = await client.submit_many(*({"message": "x", **fields} for _ in range(quantity)))
    return [row["message_id"] for row in rows]


async def holds(client: SqlClient) -> dict[str | None, int]:
    rows = await client.sql.fetch("select hold, count(*) as n from treadle.messages where state = 'queued' group by 1")
    return {row["hold"]: row["n"] for row in rows}


async def claimed(client: SqlClient, quantity: int) -> list[UUID]:
    return [claim.message_id for claim in await client.claim(quantity)]


async def run_all(client: SqlClient, quantity: int = 50) -> list[UUID]:
    """Claim and complete until nothing is left; the ids in the order of the claims."""
    order: list[UUID] = []
    while claims := await client.claim(quantity):
        order += [claim.message_id for claim in claims]
        for claim in claims:
            await client.finish(claim)
    return order


async def test_one_tenant_alone_has_no_share(sql_client: SqlClient) -> None:
    await flood(sql_client, SHARE + 50)
    assert await holds(sql_client) == {None: SHARE + 50}
    assert await sql_client.sql.fetchval("select count(*) from treadle.lane_shares") == 0


async def test_a_flood_keeps_its_share_and_its_order(shared: SqlClient) -> None:
    ids = await flood(shared, SHARE + 120)
    assert await holds(shared) == {None: SHARE, "share": 120}
    ids += await flood(shared, 5)
    assert await holds(shared) == {None: SHARE, "share": 125}
    first = await claimed(shared, 50)
    assert await holds(shared) == {None: SHARE, "share": 75}
    assert first + await run_all(shared) == ids


async def test_a_quiet_tenant_goes_before_the_flood(shared: SqlClient) -> None:
    await flood(shared, SHARE * 2)
    rows = await shared.submit_many(*({"message": "quiet"} for _ in range(FIRST + 5)), tenant="quiet")
    quiet = [row["message_id"] for row in rows]
    assert [row["queue_position"] for row in rows[:FIRST]] == list(range(FIRST, 2 * FIRST))
    assert [id for id in await claimed(shared, 3 * FIRST) if id in quiet] == quiet[:FIRST]
    assert set(await claimed(shared, SHARE - FIRST)) & set(quiet) == set(quiet[FIRST:])


async def test_lanes_have_shares_of_their_own(shared: SqlClient) -> None:
    await flood(shared, SHARE + 10, priority="low")
    [high] = await flood(shared, 1, priority="high")
    assert await holds(shared) == {None: SHARE + 1, "share": 10}
    assert await claimed(shared, 1) == [high]


async def test_positions_count_the_share(shared: SqlClient) -> None:
    rows = await shared.submit_many(*({"message": "x"} for _ in range(SHARE + 3)))
    positions = [row["queue_position"] for row in rows]
    assert positions == list(range(SHARE + 3))
    for row in (rows[0], rows[-1]):
        found = await shared.sql.fetchval("select treadle.queue_position($1)", row["message_id"])
        assert found == row["queue_position"]


async def test_a_message_without_room_keeps_its_threads_turn(shared: SqlClient) -> None:
    await flood(shared, SHARE)
    first, second = await flood(shared, 2, thread_id="t")
    turn = "select turn from treadle.thread_overview where thread_id = 't'"
    assert await shared.sql.fetchval(turn) == first
    assert await holds(shared) == {None: SHARE, "share": 1, "thread": 1}
    [urgent] = await flood(shared, 1, thread_id="t", priority="high")
    assert await shared.sql.fetchval(turn) == urgent  # a head that has not started gives way
    order = await run_all(shared)
    assert [id for id in order if id in {first, second, urgent}] == [urgent, first, second]


async def test_a_turn_that_passes_on_waits_for_the_share(shared: SqlClient) -> None:
    _, second = await flood(shared, 2, thread_id="t")
    [claim] = await shared.claim(1)
    ids = await flood(shared, SHARE + 5)
    await shared.finish(claim)
    assert await shared.sql.fetchval("select hold from treadle.messages where message_id = $1", second) == "share"
    assert await run_all(shared) == [*ids, second]


async def test_due_messages_wait_for_the_share(shared: SqlClient) -> None:
    await flood(shared, SHARE + 30, delay_seconds=10)
    await shared.shift_clock(20)
    await shared.sql.execute("select treadle.admit_due()")
    assert await holds(shared) == {None: SHARE, "share": 30}
    assert len(await run_all(shared)) == SHARE + 30


async def test_cancelled_messages_leave_no_hole_for_long(shared: SqlClient) -> None:
    ids = await flood(shared, SHARE + 40)
    for id in ids[:30] + ids[-5:]:
        await shared.cancel(id)
    assert await holds(shared) == {None: SHARE - 30, "share": 35}
    await shared.sql.execute("select treadle.admit_due()")
    assert await holds(shared) == {None: SHARE, "share": 5}


@pytest.mark.parametrize("last", ["select treadle.suspend_tenant('quiet')", "select treadle.delete_tenant('quiet')"])
async def test_the_last_active_tenant_gets_all_rows(shared: SqlClient, last: str) -> None:
    await flood(shared, SHARE + 40)
    await shared.sql.execute(last)
    await shared.sql.execute("select treadle.admit_due()")
    assert await holds(shared) == {None: SHARE + 40}
    await flood(shared, SHARE)
    assert await holds(shared) == {None: 2 * SHARE + 40}


async def quiet(client: SqlClient, quantity: int) -> list[UUID]:
    rows = await client.submit_many(*({"message": "quiet"} for _ in range(quantity)), tenant="quiet")
    return [row["message_id"] for row in rows]


async def test_a_flood_from_before_the_second_tenant_delays_no_message_of_it(sql_client: SqlClient) -> None:
    ids = await flood(sql_client, SHARE * 4)
    await sql_client.sql.execute("select treadle.create_tenant('quiet')")
    few = await quiet(sql_client, 3 * FIRST)
    assert await claimed(sql_client, FIRST) == few[:FIRST]
    few += await quiet(sql_client, SHARE)  # more than its share, together with those that wait
    assert await claimed(sql_client, SHARE) == few[FIRST : -2 * FIRST]
    assert await claimed(sql_client, 2 * FIRST) == few[-2 * FIRST :]
    ids += await flood(sql_client, 5)
    assert await holds(sql_client) == {None: SHARE * 4, "share": 5}
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == SHARE * 3
    assert await holds(sql_client) == {None: SHARE, "share": SHARE * 3 + 5}
    few = await quiet(sql_client, 3 * FIRST)
    order = await run_all(sql_client)
    assert [id for id in order if id in ids] == ids
    assert [id for id in order if id in few] == few
    assert order.index(few[-1]) < SHARE + 5 * FIRST


async def test_setting_a_flood_aside_reads_as_much_of_a_long_one_as_of_a_short_one(sql_client: SqlClient) -> None:
    async def pages() -> int:
        """Of one step, after the count that found the surplus."""
        await sql_client.sql.execute("select treadle.suspend_tenant('quiet', false)")
        found = await buffers(sql_client, "select treadle.admit_due(quantity => 2)")
        await sql_client.sql.execute("select treadle.suspend_tenant('quiet')")
        return found

    await sql_client.sql.execute("select treadle.create_tenant('quiet'), treadle.suspend_tenant('quiet')")
    await flood(sql_client, SHARE * 2)
    short = await pages()
    await flood(sql_client, SHARE * 20)
    assert await pages() < 1.1 * short


async def test_lanes_are_counted_again_while_a_long_surplus_is_set_aside(sql_client: SqlClient) -> None:
    ids = await flood(sql_client, SHARE * 3)
    await sql_client.sql.execute("select treadle.create_tenant('quiet')")
    await sql_client.cancel(ids[0])
    step = "select treadle.admit_due(quantity => 2)"  # sets ten aside
    await sql_client.sql.execute(step)
    assert await sums(sql_client) == [SHARE * 3 - 10]
    await sql_client.sql.execute("""
        insert into treadle.lane_shares (tenant, queue, lane, ready, behind)
            select 'default', 'default', 'normal', 0, 0 from generate_series(1, 500)""")
    await sql_client.sql.execute(step)
    assert await sums(sql_client) == [SHARE * 3 - 1 - 20]


async def test_few_messages_over_the_share_are_left_in_their_lane(sql_client: SqlClient) -> None:
    await flood(sql_client, SHARE + 50)
    await sql_client.sql.execute("select treadle.create_tenant('quiet'), treadle.admit_due()")
    await flood(sql_client, 5)
    assert await holds(sql_client) == {None: SHARE + 50, "share": 5}


async def test_no_message_overtakes_an_earlier_one_of_its_tenant(shared: SqlClient) -> None:
    await flood(shared, SHARE)
    few = await quiet(shared, FIRST + 5)
    assert (await claimed(shared, 2 * FIRST))[FIRST:] == few[:FIRST]  # after the first ones of the flood
    few += await quiet(shared, 1)
    order = await run_all(shared)
    assert [id for id in order if id in few] == few[FIRST:]
    few = await quiet(shared, 1)  # nothing of it waits any more
    await flood(shared, SHARE)
    assert await claimed(shared, 1) == few


async def test_open_submits_of_a_tenant_do_not_wait_for_each_other(shared: SqlClient) -> None:
    other = await shared.connect()
    await shared.limit_lock_waits()
    async with other.sql.transaction():
        await flood(other, SHARE)
        await flood(shared, SHARE)
        assert len(await shared.claim(SHARE)) == SHARE
    assert await holds(shared) == {None: SHARE}


async def test_a_claim_passes_over_a_held_message_that_another_transaction_locks(shared: SqlClient) -> None:
    ids = await flood(shared, SHARE + 2)
    other = await shared.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", ids[SHARE])
        assert await claimed(shared, 1) == ids[:1]
        assert await holds(shared) == {None: SHARE, "share": 1}
    assert (await run_all(shared))[-1:] == ids[SHARE : SHARE + 1]


async def sums(client: SqlClient) -> Sequence[int]:
    return [row["n"] for row in await client.sql.fetch("select sum(ready)::int as n from treadle.lane_shares")]


async def test_the_janitor_counts_the_lanes_again(shared: SqlClient) -> None:
    ids = await flood(shared, 40)
    await shared.cancel(ids[0])
    assert await sums(shared) == [40]
    await shared.sql.execute("select treadle.admit_due()")
    assert await sums(shared) == [39]
    await claimed(shared, 9)
    assert await sums(shared) == [30]


async def test_a_claim_sets_a_part_of_a_stopped_flood_aside(sql_client: SqlClient) -> None:
    await sql_client.sql.execute(
        "create or replace function treadle._set_aside_limits(out at_once integer, out in_all integer) "
        "language sql immutable parallel safe as 'select 5, 20'"
    )
    await flood(sql_client, 100)  # alone, so without a share
    await sql_client.sql.execute("select treadle.create_tenant('quiet'), treadle.suspend_tenant('default')")
    [quiet] = await sql_client.submit_many({"message": "x"}, tenant="quiet")
    waiting = []
    while not (found := await claimed(sql_client, 1)):
        waiting.append((await holds(sql_client))["share"])
    assert (waiting, found) == ([24, 48, 72, 96], [quiet["message_id"]])
    assert (await holds(sql_client))["share"] == 100
    assert await sql_client.sql.fetch("select * from treadle.violations") == []
