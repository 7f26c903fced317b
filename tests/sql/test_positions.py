"""Queue positions, and the list of waiting messages."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest

from service.db.pool import Database
from service.events.lines import Line, LinePosition, QueueLines
from service.events.model import QueueStop
from service.events.positions import Positions
from service.events.sse import STOPS
from service.events.store import EventStore
from tests.support.sql_client import SqlClient
from tests.support.waiting import until


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


@pytest.mark.parametrize("alone", [True, False])
async def test_the_position_of_an_arrival_that_goes_first_in_its_thread(sql_client: SqlClient, alone: bool) -> None:
    await sql_client.submit_many({"thread_id": "t", "priority": "low"}, {"thread_id": "u"}, {"thread_id": "u"})
    others = [] if alone else [{"thread_id": "u"}, {}]
    rows = await sql_client.submit_many({"thread_id": "t", "priority": "high"}, *others)
    assert [row["queue_position"] for row in rows] == await positions(sql_client, rows)
    assert rows[0]["queue_position"] == 0


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


async def test_a_message_that_returned_does_not_distort_the_span(sql_client: SqlClient) -> None:
    """Its id is far below those of the others."""
    rows = await sql_client.submit_many(*[{}] * 1500)
    (claim,) = await sql_client.claim(1)
    await sql_client.finish(claim, outcome="released")
    (low,) = await sql_client.submit_many({"priority": "low"})
    asked = [rows[0], rows[1499], low]
    many = await sql_client.sql.fetch(
        "select queue_position from treadle.queue_positions($1) order by n", [row["message_id"] for row in asked]
    )
    assert [row[0] for row in many] == await positions(sql_client, asked) == [0, 1499, 1500]
    assert low["queue_position"] == 1500


class CountingStore(EventStore):
    """Notes for how many messages, queues and threads each query asks."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked: list[tuple[str, int]] = []

    async def message_places(self, message_ids: Sequence[UUID]) -> list[LinePosition | None]:
        self.asked.append(("messages", len(message_ids)))
        return await super().message_places(message_ids)

    async def queue_lines(self, queues: Collection[str]) -> dict[str, QueueLines]:
        self.asked.append(("queues", len(queues)))
        return await super().queue_lines(queues)

    async def thread_lines(self, threads: Collection[int]) -> dict[int, list[int]]:
        self.asked.append(("threads", len(threads)))
        return await super().thread_lines(threads)


async def test_readers_that_wait_cost_one_query_of_their_lanes(
    sql_client: SqlClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions as the lines tell them are those that looking each message up tells, whatever happened to it."""
    monkeypatch.setattr("service.events.positions.BELIEVED_SECONDS", 1000.0)
    rows = await sql_client.submit_many(
        *[{"priority": priority} for priority in ("high", "normal", "low") for _ in range(5)],
        *[{"thread_id": "t", "priority": ("high", "normal", "low")[n % 3]} for n in range(12)],
        {"delay_seconds": 9},
        *[{}] * 1200,
    )
    ids = [row["message_id"] for row in rows]
    store = CountingStore(database)
    followed = Positions(store)
    places: dict[UUID, LinePosition | None] = dict.fromkeys(ids)

    async def ask() -> list[tuple[str, int]]:
        """Checks that all are told the truth; returns what was asked."""
        store.asked.clear()
        found = await asyncio.gather(*(followed.follow(id, places[id]) for id in ids))
        places.update(zip(ids, found, strict=True))
        asked = list(store.asked)
        truth = await store.message_places(ids)
        assert [place and place.told for place in found] == [place and place.told for place in truth]
        return asked

    assert {kind for kind, _ in await ask()} == {"messages"}
    assert await ask() == [("queues", 1), ("threads", 1)]
    claims = await sql_client.claim(7)
    assert await ask() == [("queues", 1), ("threads", 1), ("messages", len(claims))]
    places.update(dict.fromkeys(claim.message_id for claim in claims))  # events tell of the ends
    await sql_client.finish(claims[0], outcome="released")
    await sql_client.finish(*claims[1:])
    await sql_client.sql.execute("select treadle.change_message($1, priority => 'high')", ids[14])
    asked = dict(await ask())
    assert asked["messages"] <= 3 + len(claims)  # that has another priority, and the next of the thread
    await sql_client.sql.execute("select treadle.pause('default')")
    assert await ask() == [("queues", 1), ("threads", 1)]


async def test_a_message_at_the_head_of_its_lane_is_told_what_keeps_it_there(
    sql_client: SqlClient, database: Database
) -> None:
    """Limits and locks, which pass over the first rows of a lane; and what stops its tenant."""
    first, second = await sql_client.submit(), await sql_client.submit(thread_id="t")
    positions = Positions(EventStore(database))
    known: dict[UUID, LinePosition | None] = {first: None, second: None}

    async def stops() -> list[str | None]:
        """Of the two messages. The second look begins where the first one found them."""
        for _ in range(2):
            for message_id, place in known.items():
                known[message_id] = await positions.follow(message_id, place)
        return [None if place is None else place.told.stop for place in known.values()]

    async def change(statement: str) -> None:
        await sql_client.sql.execute(statement)

    assert await stops() == ["unclaimed", "unclaimed"]
    await sql_client.heartbeat()
    assert await stops() == ["no_agent", "no_agent"]
    await change("update treadle.workers set agents = '{echo}'")
    assert await stops() == [None, None]
    await change("update treadle.workers set tenants = '{acme}'")
    assert await stops() == ["unclaimed", "unclaimed"]
    await change("update treadle.workers set tenants = null; select treadle.suspend_tenant('default', true)")
    assert await stops() == ["tenant_suspended", "tenant_suspended"]
    await change("select treadle.suspend_tenant('default', false)")
    [claim] = await sql_client.claim(1)
    assert claim.message_id == first
    known.pop(first)
    await change("update treadle.queues set concurrency = 1")
    assert await stops() == ["queue_concurrency"]
    await change("update treadle.queues set concurrency = null")
    await change("""select treadle.limit_tenant('default', '{"running": 1}')""")
    assert await stops() == ["tenant_running"]
    await change("select treadle.limit_tenant('default', null)")
    assert await stops() == [None]
    user = await sql_client.connect()
    await user.sql.execute("begin")
    await user.submit(thread_id="t")
    await until(stops, lambda found: found == ["locked"])
    await user.sql.execute("rollback")
    assert await stops() == [None]


def test_each_stop_has_a_sentence_for_readers() -> None:
    assert STOPS.keys() == set(get_args(QueueStop))


def test_a_line_estimates_beyond_the_rows_that_were_read() -> None:
    returned = [-(2**62) + n for n in range(3)]
    line = Line([*returned, *range(10, 30)], last_id=1000)
    assert [line.before(id) for id in (returned[1], 12, 500)] == [1, 5, 3 + 490]
    assert line.depth() == 3 + 991
    assert Line(returned, last_id=7).depth() == 3
    assert Line([]).depth() == 0


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


@pytest.mark.new_database
async def test_positions_of_many_messages_are_those_of_each_and_count_a_lane_once(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(
        *[{"priority": priority} for priority in ("high", "normal", "low") for _ in range(5)],
        *[{"thread_id": f"t{n % 3}", "priority": ("high", "normal", "low")[n % 2]} for n in range(30)],
        {"delay_seconds": 9},
    )
    await sql_client.claim(7, lease_seconds=3600)  # on a slow machine the calls below take more than a minute
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
