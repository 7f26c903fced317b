"""The event log's writers: appends that can be repeated, and what a finish brings."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.leases.model import Claim
from tests.support.invariants import assert_consistent
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.sql_states import claim_new


async def chunks(sql_client: SqlClient, claim: Claim) -> list[Any]:
    return [data["chunk"] for type, data in await sql_client.log(claim.message_id) if type == "chunk"]


PLACES = pytest.mark.parametrize("place", [{"thread_id": None}, {"thread_id": "t"}], ids=["alone", "thread"])


@PLACES
async def test_an_append_can_be_repeated(sql_client: SqlClient, place: dict[str, Any]) -> None:
    (claim,) = await claim_new(sql_client, **place)
    assert await sql_client.append((claim, 3, ["a", "b"])) == ["ok"]
    before = await sql_client.all_rows()
    assert await sql_client.append((claim, 3, ["a", "b"])) == ["ok"]
    assert await sql_client.append((claim, 3, ["a"])) == ["ok"]
    assert await sql_client.append((claim, 4, ["b"])) == ["ok"]
    assert await sql_client.all_rows() == before
    assert await chunks(sql_client, claim) == ["a", "b"]
    assert await sql_client.append((claim, 5, ["c"])) == ["ok"]
    assert await chunks(sql_client, claim) == ["a", "b", "c"]


@PLACES
async def test_of_an_overlapping_append_the_new_part_is_written(sql_client: SqlClient, place: dict[str, Any]) -> None:
    (claim,) = await claim_new(sql_client, **place)
    await sql_client.append((claim, 3, ["a", "b"]))
    assert await sql_client.append((claim, 4, ["b", "c", "d"])) == ["ok"]
    assert await chunks(sql_client, claim) == ["a", "b", "c", "d"]


@PLACES
async def test_a_gap_is_refused(sql_client: SqlClient, place: dict[str, Any]) -> None:
    (claim,) = await claim_new(sql_client, **place)
    before = await sql_client.all_rows()
    assert await sql_client.append((claim, 4, ["b"])) == ["gap"]
    assert await sql_client.append((claim, 4, ["b"]), patient=False) == ["gap"]
    assert await sql_client.finish(claim, first_seq=4, chunks=["b"]) == ["gap"]
    assert await sql_client.finish(claim, first_seq=4) == ["gap"]
    assert await sql_client.all_rows() == before


async def test_an_append_of_nothing_is_no_harm(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    before = await sql_client.all_rows()
    assert await sql_client.append((claim, 3, [])) == ["ok"]
    assert await sql_client.append() == []
    assert await sql_client.all_rows() == before


async def test_each_message_of_a_batch_has_its_own_fate(sql_client: SqlClient) -> None:
    repeated, gap, lost, fine, alone = await claim_new(sql_client, 4) + await claim_new(sql_client, thread_id=None)
    await sql_client.append((repeated, 3, ["a"]))
    statuses = await sql_client.append(
        (fine, 3, ["x", "y"]),
        (repeated, 3, ["a", "b"]),
        (msgspec.structs.replace(lost, lease=uuid4()), 3, ["l"]),
        (gap, 5, ["g"]),
        (alone, 3, ["z"]),
    )
    assert statuses == ["ok", "ok", "lost", "gap", "ok"]
    found = [await chunks(sql_client, claim) for claim in (repeated, gap, lost, fine, alone)]
    assert found == [["a", "b"], [], [], ["x", "y"], ["z"]]


@pytest.mark.parametrize(
    "lock",
    [
        "select from treadle.thread_log where thread = $2 and $1::uuid is not null for no key update",
        "select from treadle.leases where message_id = $1 and $2::bigint is not null for no key update",
    ],
    ids=["log", "lease"],
)
async def test_an_impatient_append_passes_over_what_others_hold(sql_client: SqlClient, lock: str) -> None:
    held, free, alone = await claim_new(sql_client, 2) + await claim_new(sql_client, thread_id=None)
    other = await sql_client.connect()
    items = [(held, 3, ["a"]), (free, 3, ["b"]), (alone, 3, ["c"])]
    transaction = other.sql.transaction()
    await transaction.start()
    await other.sql.execute(lock, held.message_id, held.thread)
    await sql_client.limit_lock_waits()
    assert await sql_client.append(*items, patient=False) == ["busy", "ok", "ok"]
    assert [await chunks(sql_client, claim) for claim in (held, free, alone)] == [[], ["b"], ["c"]]
    with pytest.raises(asyncpg.LockNotAvailableError):  # patience ends
        await sql_client.append(items[0], patient=True)
    await transaction.rollback()
    assert await sql_client.append(*items, patient=True) == ["ok", "ok", "ok"]
    assert [await chunks(sql_client, claim) for claim in (held, free, alone)] == [["a"], ["b"], ["c"]]


async def test_a_message_without_a_thread_is_appended_beside_one_whose_log_is_locked(sql_client: SqlClient) -> None:
    """Also when the call locks no log at all."""
    locked, alone = await claim_new(sql_client) + await claim_new(sql_client, thread_id=None)
    other = await sql_client.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    await other.sql.execute("select from treadle.thread_log where thread = $1 for no key update", locked.thread)
    assert await sql_client.append((locked, 3, ["a"]), (alone, 3, ["b"]), patient=False) == ["busy", "ok"]
    await transaction.rollback()
    assert [await chunks(sql_client, claim) for claim in (locked, alone)] == [[], ["b"]]


@pytest.mark.parametrize(
    "lock",
    [
        "select from treadle.threads where id = $2 and $1::uuid is not null for no key update",
        "select from treadle.leases where message_id = $1 and $2::bigint is not null for no key update",
        "select treadle.cancel($1) where $2::bigint is not null",
        "select treadle.submit('next', thread_id => 't0') where $1::uuid is not null and $2::bigint is not null",
    ],
    ids=["thread", "lease", "cancel", "submit"],
)
async def test_an_impatient_finish_passes_over_what_others_hold(sql_client: SqlClient, lock: str) -> None:
    held, free, alone = await claim_new(sql_client, 2) + await claim_new(sql_client, thread_id=None)
    other = await sql_client.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    await other.sql.execute(lock, held.message_id, held.thread)
    await sql_client.limit_lock_waits()
    finished = await sql_client.finish(held, free, alone, chunks=["x"], patient=False)
    assert finished == ["busy", "completed", "completed"]
    with pytest.raises(asyncpg.LockNotAvailableError):
        await sql_client.finish(held)
    await transaction.rollback()
    await assert_consistent(sql_client.sql)
    assert await sql_client.finish(held, free, alone, chunks=["x"]) == ["completed", "lost", "lost"]


async def test_an_append_says_that_a_cancellation_was_requested(sql_client: SqlClient) -> None:
    one, two = await claim_new(sql_client, 2)
    await sql_client.cancel(one.message_id)
    rows = await sql_client.sql.fetch(
        "select * from treadle.append($1, $2, '{3,3}', '{1,2}', '{chunk,chunk}', '{1,2}', true)",
        [one.message_id, two.message_id],
        [one.lease, two.lease],
    )
    assert [row["cancel_requested"] for row in rows] == [True, False]


async def test_a_finish_brings_the_events_not_yet_sent(sql_client: SqlClient) -> None:
    first, second = await claim_new(sql_client, 2)
    await sql_client.append((first, 3, ["a", "b"]))
    assert await sql_client.finish(first, second, first_seq=3, chunks=["a", "b", "c"]) == ["completed", "completed"]
    for claim in (first, second):
        assert await chunks(sql_client, claim) == ["a", "b", "c"]
        assert (await sql_client.types(claim.message_id))[-1] == "done"


async def test_a_finish_need_not_bring_any(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    await sql_client.append((claim, 3, ["a", "b"]))
    assert await sql_client.finish(claim, first_seq=5) == ["completed"]
    assert await sql_client.types(claim.message_id) == ["queued", "started", "chunk", "chunk", "done"]


async def test_a_finish_waits_for_the_append_in_flight(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    other, watcher = await sql_client.connect(), await sql_client.connect()
    async with other.sql.transaction():
        await other.append((claim, 3, ["a"]))
        finishing = asyncio.create_task(persist(lambda: sql_client.finish(claim, first_seq=4, chunks=["b"])))
        await watcher.until_blocked(sql_client)
    assert await finishing == ["completed"]
    assert await chunks(sql_client, claim) == ["a", "b"]


async def test_an_event_without_data_and_one_of_any_type(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    await sql_client.sql.execute(
        "select treadle.append(array[$1::uuid], array[$2::uuid], '{3}', '{1,1}', '{thought,tool}', $3::text[], true)",
        claim.message_id,
        claim.lease,
        ['{"a": [1, null, "ü\\u2028"]}', "null"],
    )
    assert (await sql_client.log(claim.message_id))[2:] == [("thought", {"a": [1, None, "ü\u2028"]}), ("tool", None)]


async def test_a_zombie_in_the_same_batch_as_its_successor_is_told_that_it_lost(sql_client: SqlClient) -> None:
    await sql_client.submit()
    zombie = await sql_client.claim_one()
    await sql_client.finish(zombie, outcome="released")
    holder = await sql_client.claim_one()
    assert await sql_client.finish(zombie, holder, first_seq=holder.last_seq + 1) == ["lost", "completed"]


async def test_a_zombie_in_a_batch_leaves_the_logs_of_the_others_dense(sql_client: SqlClient) -> None:
    await sql_client.submit()
    zombie = await sql_client.claim_one()
    await sql_client.finish(zombie, outcome="released")
    holder = await sql_client.claim_one()
    others = await claim_new(sql_client, 2)
    assert await sql_client.append((others[0], 3, ["a", "b"]), (others[1], 3, ["a", "b", "c", "d"])) == ["ok", "ok"]
    claims = [zombie, holder, *others]
    rows = await sql_client.sql.fetch(
        "select status from treadle.finish($1::uuid[], $2::uuid[], array_fill('completed'::text, array[4]),"
        " array_fill('1'::text, array[4]), null, null, null, null, $3::integer[],"
        ' \'{2}\', \'{chunk}\', array[\'{"type": "content", "chunk": "x", "index": 0}\'], false)',
        [claim.message_id for claim in claims],
        [claim.lease for claim in claims],
        [3, holder.last_seq + 1, 5, 7],
    )
    assert [row["status"] for row in rows] == ["lost", "completed", "completed", "completed"]
    for claim in claims:
        seqs = await sql_client.sql.fetchval(
            "select array_agg(seq order by seq) from treadle.events where message_id = $1", claim.message_id
        )
        assert seqs == list(range(1, len(seqs) + 1))
    await assert_consistent(sql_client.sql)
