"""The event log's writers: appends that can be repeated, and what a finish brings."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from service.queues.model import Claim
from tests.support.invariants import assert_consistent
from tests.support.sql_client import Loom, running


async def chunks(loom: Loom, claim: Claim) -> list[Any]:
    return [data["chunk"] for type, data in await loom.log(claim.message_id) if type == "chunk"]


PLACES = pytest.mark.parametrize("place", [{"thread_id": None}, {"thread_id": "t"}], ids=["alone", "thread"])


@PLACES
async def test_an_append_can_be_repeated(loom: Loom, place: dict[str, Any]) -> None:
    (claim,) = await running(loom, **place)
    assert await loom.append((claim, 3, ["a", "b"])) == ["ok"]
    before = await loom.everything()
    assert await loom.append((claim, 3, ["a", "b"])) == ["ok"]
    assert await loom.append((claim, 3, ["a"])) == ["ok"]
    assert await loom.append((claim, 4, ["b"])) == ["ok"]
    assert await loom.everything() == before
    assert await chunks(loom, claim) == ["a", "b"]
    assert await loom.append((claim, 5, ["c"])) == ["ok"]
    assert await chunks(loom, claim) == ["a", "b", "c"]


@PLACES
async def test_of_an_overlapping_append_the_new_part_is_written(loom: Loom, place: dict[str, Any]) -> None:
    (claim,) = await running(loom, **place)
    await loom.append((claim, 3, ["a", "b"]))
    assert await loom.append((claim, 4, ["b", "c", "d"])) == ["ok"]
    assert await chunks(loom, claim) == ["a", "b", "c", "d"]


@PLACES
async def test_a_gap_is_refused(loom: Loom, place: dict[str, Any]) -> None:
    (claim,) = await running(loom, **place)
    before = await loom.everything()
    assert await loom.append((claim, 4, ["b"])) == ["gap"]
    assert await loom.append((claim, 4, ["b"]), patient=False) == ["gap"]
    assert await loom.finish(claim, first_seq=4, chunks=["b"]) == ["gap"]
    assert await loom.finish(claim, first_seq=4) == ["gap"]
    assert await loom.everything() == before


async def test_an_append_of_nothing_is_no_harm(loom: Loom) -> None:
    (claim,) = await running(loom)
    before = await loom.everything()
    assert await loom.append((claim, 3, [])) == ["ok"]
    assert await loom.append() == []
    assert await loom.everything() == before


async def test_each_message_of_a_batch_has_its_own_fate(loom: Loom) -> None:
    repeated, gap, lost, fine, alone = await running(loom, 4) + await running(loom, thread_id=None)
    await loom.append((repeated, 3, ["a"]))
    statuses = await loom.append(
        (fine, 3, ["x", "y"]),
        (repeated, 3, ["a", "b"]),
        (msgspec.structs.replace(lost, lease=uuid4()), 3, ["l"]),
        (gap, 5, ["g"]),
        (alone, 3, ["z"]),
    )
    assert statuses == ["ok", "ok", "lost", "gap", "ok"]
    found = [await chunks(loom, claim) for claim in (repeated, gap, lost, fine, alone)]
    assert found == [["a", "b"], [], [], ["x", "y"], ["z"]]


@pytest.mark.parametrize(
    "lock",
    [
        "select from treadle.thread_log where thread = $2 and $1::uuid is not null for no key update",
        "select from treadle.leases where message_id = $1 and $2::bigint is not null for no key update",
        "select treadle.cancel($1) where $2::bigint is not null",
        "select treadle.submit('next', thread_id => 't0') where $1::uuid is not null and $2::bigint is not null",
    ],
    ids=["log", "lease", "cancel", "submit"],
)
async def test_an_impatient_append_passes_over_what_others_hold(loom: Loom, lock: str) -> None:
    held, free, alone = await running(loom, 2) + await running(loom, thread_id=None)
    other = await loom.connect()
    items = [(held, 3, ["a"]), (free, 3, ["b"]), (alone, 3, ["c"])]
    transaction = other.sql.transaction()
    await transaction.start()
    await other.sql.execute(lock, held.message_id, held.thread)
    await loom.sql.execute("set lock_timeout = '1ms'")
    assert await loom.append(*items, patient=False) == ["busy", "ok", "ok"]
    assert [await chunks(loom, claim) for claim in (held, free, alone)] == [[], ["b"], ["c"]]
    with pytest.raises(asyncpg.LockNotAvailableError):  # patience ends after a second
        await loom.append(items[0], patient=True)
    await transaction.rollback()
    assert await loom.append(*items, patient=True) == ["ok", "ok", "ok"]
    assert [await chunks(loom, claim) for claim in (held, free, alone)] == [["a"], ["b"], ["c"]]


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
async def test_an_impatient_finish_passes_over_what_others_hold(loom: Loom, lock: str) -> None:
    held, free, alone = await running(loom, 2) + await running(loom, thread_id=None)
    other = await loom.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    await other.sql.execute(lock, held.message_id, held.thread)
    await loom.sql.execute("set lock_timeout = '1ms'")
    finished = await loom.finish(held, free, alone, chunks=["x"], patient=False)
    assert finished == ["busy", "completed", "completed"]
    with pytest.raises(asyncpg.LockNotAvailableError):
        await loom.finish(held)
    await transaction.rollback()
    await assert_consistent(loom.sql)
    assert await loom.finish(held, free, alone, chunks=["x"]) == ["completed", "lost", "lost"]


async def test_an_append_says_that_a_cancellation_was_requested(loom: Loom) -> None:
    one, two = await running(loom, 2)
    await loom.cancel(one.message_id)
    rows = await loom.sql.fetch(
        "select * from treadle.append($1, $2, '{3,3}', '{1,2}', '{chunk,chunk}', '{1,2}', true)",
        [one.message_id, two.message_id],
        [one.lease, two.lease],
    )
    assert [row["cancel_requested"] for row in rows] == [True, False]


async def test_a_finish_brings_the_events_not_yet_sent(loom: Loom) -> None:
    first, second = await running(loom, 2)
    await loom.append((first, 3, ["a", "b"]))
    assert await loom.finish(first, second, first_seq=3, chunks=["a", "b", "c"]) == ["completed", "completed"]
    for claim in (first, second):
        assert await chunks(loom, claim) == ["a", "b", "c"]
        assert (await loom.types(claim.message_id))[-1] == "done"


async def test_a_finish_need_not_bring_any(loom: Loom) -> None:
    (claim,) = await running(loom)
    await loom.append((claim, 3, ["a", "b"]))
    assert await loom.finish(claim, first_seq=5) == ["completed"]
    assert await loom.types(claim.message_id) == ["queued", "started", "chunk", "chunk", "done"]


async def test_a_finish_waits_for_the_append_in_flight(loom: Loom) -> None:
    (claim,) = await running(loom)
    other = await loom.connect()
    async with other.sql.transaction():
        await other.append((claim, 3, ["a"]))
        finishing = asyncio.create_task(loom.finish(claim, first_seq=4, chunks=["b"]))
        await (await loom.connect()).until_blocked(loom)
    assert await finishing == ["completed"]
    assert await chunks(loom, claim) == ["a", "b"]


async def test_an_event_without_data_and_one_of_any_type(loom: Loom) -> None:
    (claim,) = await running(loom)
    await loom.sql.execute(
        "select treadle.append(array[$1::uuid], array[$2::uuid], '{3}', '{1,1}', '{thought,tool}', $3::text[], true)",
        claim.message_id,
        claim.lease,
        ['{"a": [1, null, "ü\\u2028"]}', "null"],
    )
    assert (await loom.log(claim.message_id))[2:] == [("thought", {"a": [1, None, "ü\u2028"]}), ("tool", None)]


async def test_a_zombie_in_the_same_batch_as_its_successor_is_told_that_it_lost(loom: Loom) -> None:
    await loom.submit()
    zombie = await loom.claim_one()
    await loom.finish(zombie, outcome="released")
    holder = await loom.claim_one()
    assert await loom.finish(zombie, holder, first_seq=holder.last_seq + 1) == ["lost", "completed"]
