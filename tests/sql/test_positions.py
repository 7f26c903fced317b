"""Queue positions, and the list of what waits."""

from typing import Any
from uuid import UUID, uuid4

from tests.support.sql_client import Loom


async def order(loom: Loom) -> list[UUID]:
    """The order in which messages run, one after the other."""
    ran = []
    while claims := await loom.run(1):
        ran.append(claims[0].message_id)
    return ran


# Positions


async def positions(loom: Loom, rows: list[Any]) -> list[int | None]:
    """As told now; must agree with what each was told when submitted, if nothing happened since."""
    return [await loom.sql.fetchval("select treadle.queue_position($1)", row["message_id"]) for row in rows]


async def test_positions_count_from_0_and_across_priorities(loom: Loom) -> None:
    rows = []
    for priority in ("low", "normal", "high", "low", "normal", "high"):
        rows += await loom.submit_many({"priority": priority})
    assert [row["queue_position"] for row in rows] == [0, 0, 0, 3, 2, 1]
    told = await positions(loom, rows)
    assert told == [4, 2, 0, 5, 3, 1]
    assert await order(loom) == [rows[told.index(n)]["message_id"] for n in range(6)]


async def test_positions_in_one_batch(loom: Loom) -> None:
    await loom.submit()
    rows = await loom.submit_many({"priority": "low"}, {}, {"priority": "high"}, {}, {"delay_seconds": 9})
    assert [row["queue_position"] for row in rows] == await positions(loom, rows) == [4, 2, 0, 3, None]


async def test_positions_in_a_thread(loom: Loom) -> None:
    await loom.submit()
    rows = await loom.submit_many(*[{"thread_id": "t"}] * 3)
    assert [row["queue_position"] for row in rows] == await positions(loom, rows) == [1, 2, 3]
    rows += await loom.submit_many({"thread_id": "t"})
    assert rows[3]["queue_position"] == 4
    assert await positions(loom, rows) == [1, 2, 3, 4]


async def test_positions_of_what_does_not_wait_for_a_worker(loom: Loom) -> None:
    rows = await loom.submit_many({"thread_id": "t"}, {"thread_id": "t"})
    claim = await loom.claim_one()
    assert await positions(loom, rows) == [None, 0]
    await loom.finish(claim, outcome="error")
    assert await positions(loom, rows) == [None, 0]
    assert await loom.sql.fetchval("select treadle.queue_position($1)", uuid4()) is None


async def test_positions_beyond_a_thousand_are_estimated_by_the_span_of_the_lane(loom: Loom) -> None:
    rows = await loom.submit_many(*[{}] * 1500)
    assert [rows[n]["queue_position"] for n in (0, 999, 1499)] == [0, 999, 1499]
    last = [rows[n] for n in (1200, 1499)]
    assert await positions(loom, last) == [1200, 1499]
    await loom.claim(600)
    assert await positions(loom, last) == [600, 899]
    (row,) = await loom.submit_many({"priority": "low"})
    assert row["queue_position"] == 900


async def test_waiting_lists_who_is_next_first(loom: Loom) -> None:
    rows = await loom.submit_many({"priority": "low"}, {}, {"priority": "high"}, {"thread_id": "t"}, {"thread_id": "t"})
    low, normal, high, head, held = [row["message_id"] for row in rows]

    async def waiting(quantity: int) -> list[UUID]:
        return [row[0] for row in await loom.sql.fetch("select treadle.waiting($1)", quantity)]

    assert await waiting(100) == [high, normal, head, low, held]
    assert await waiting(2) == [high, normal]
