"""Queue positions, and the list of waiting messages."""

from typing import Any
from uuid import UUID, uuid4

from tests.support.sql_client import SqlClient


async def order(sql_client: SqlClient) -> list[UUID]:
    """The order in which messages run, one after the other."""
    ran = []
    while claims := await sql_client.run(1):
        ran.append(claims[0].message_id)
    return ran


# Positions


async def positions(sql_client: SqlClient, rows: list[Any]) -> list[int | None]:
    """As told now; must agree with what each was told when submitted, if nothing happened since."""
    return [await sql_client.sql.fetchval("select treadle.queue_position($1)", row["message_id"]) for row in rows]


async def test_positions_count_from_0_and_across_priorities(sql_client: SqlClient) -> None:
    rows = []
    for priority in ("low", "normal", "high", "low", "normal", "high"):
        rows += await sql_client.submit_many({"priority": priority})
    assert [row["queue_position"] for row in rows] == [0, 0, 0, 3, 2, 1]
    told = await positions(sql_client, rows)
    assert told == [4, 2, 0, 5, 3, 1]
    assert await order(sql_client) == [rows[told.index(n)]["message_id"] for n in range(6)]


async def test_positions_in_one_batch(sql_client: SqlClient) -> None:
    await sql_client.submit()
    rows = await sql_client.submit_many({"priority": "low"}, {}, {"priority": "high"}, {}, {"delay_seconds": 9})
    assert [row["queue_position"] for row in rows] == await positions(sql_client, rows) == [4, 2, 0, 3, None]


async def test_positions_in_a_thread(sql_client: SqlClient) -> None:
    await sql_client.submit()
    rows = await sql_client.submit_many(*[{"thread_id": "t"}] * 3)
    assert [row["queue_position"] for row in rows] == await positions(sql_client, rows) == [1, 2, 3]
    rows += await sql_client.submit_many({"thread_id": "t"})
    assert rows[3]["queue_position"] == 4
    assert await positions(sql_client, rows) == [1, 2, 3, 4]


async def test_messages_that_do_not_wait_for_a_worker_have_no_position(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many({"thread_id": "t"}, {"thread_id": "t"})
    claim = await sql_client.claim_one()
    assert await positions(sql_client, rows) == [None, 0]
    await sql_client.finish(claim, outcome="error")
    assert await positions(sql_client, rows) == [None, 0]
    assert await sql_client.sql.fetchval("select treadle.queue_position($1)", uuid4()) is None


async def test_positions_beyond_a_thousand_are_estimated_by_the_span_of_the_lane(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(*[{}] * 1500)
    assert [rows[n]["queue_position"] for n in (0, 999, 1499)] == [0, 999, 1499]
    last = [rows[n] for n in (1200, 1499)]
    assert await positions(sql_client, last) == [1200, 1499]
    await sql_client.claim(600)
    assert await positions(sql_client, last) == [600, 899]
    (row,) = await sql_client.submit_many({"priority": "low"})
    assert row["queue_position"] == 900


async def test_queued_messages_lists_the_next_message_first(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(
        {"priority": "low"}, {}, {"priority": "high"}, {"thread_id": "t"}, {"thread_id": "t"}
    )
    low, normal, high, head, held = [row["message_id"] for row in rows]

    async def waiting(quantity: int) -> list[UUID]:
        return [row[0] for row in await sql_client.sql.fetch("select treadle.queued_messages($1)", quantity)]

    assert await waiting(100) == [high, normal, head, low, held]
    assert await waiting(2) == [high, normal]


async def test_an_unknown_message_has_no_position_and_disturbs_no_other(sql_client: SqlClient) -> None:
    known = await sql_client.submit()
    rows = await sql_client.sql.fetch("select * from treadle.queue_positions($1)", [uuid4(), known])
    assert sorted(tuple(row) for row in rows) == [(1, None, None), (2, "queued", 0)]


async def test_positions_of_many_messages_are_those_of_each_and_count_a_lane_once(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(
        *[{"priority": priority} for priority in ("high", "normal", "low") for _ in range(5)],
        *[{"thread_id": f"t{n % 3}", "priority": ("high", "normal", "low")[n % 2]} for n in range(30)],
        {"delay_seconds": 9},
    )
    await sql_client.claim(7)
    rows += await sql_client.submit_many(*[{}] * 1200)
    ids = [row["message_id"] for row in rows] + [uuid4()]
    await sql_client.sql.execute("set track_functions = 'all'")
    many = await sql_client.sql.fetch("select * from treadle.queue_positions($1) order by n", ids)
    await sql_client.sql.execute("select pg_stat_force_next_flush()")
    calls = await sql_client.sql.fetchval(
        "select sum(calls) from pg_stat_user_functions where schemaname = 'treadle' and funcname like '\\_lane\\_%'"
    )
    assert calls == 3  # one for each lane
    await sql_client.sql.execute("set track_functions = 'none'")
    assert [row["queue_position"] for row in many] == [
        await sql_client.sql.fetchval("select treadle.queue_position($1)", id) for id in ids
    ]
    assert {row["state"] for row in many} == {"queued", "processing", None}
