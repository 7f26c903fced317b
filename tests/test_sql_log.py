"""The event log: appends that can be repeated, readers that miss nothing, partitions."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from invariants import assert_consistent
from loom import Loom, weaving

from service.db.pool import Connection
from service.queues.model import Claim


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator[Loom]:
    async with weaving(sql, dsn) as loom:
        yield loom


async def running(loom: Loom, quantity: int = 1, **fields: Any) -> list[Claim]:
    """Running messages, each in a thread of its own unless told otherwise, oldest first."""
    for n in range(quantity):
        await loom.submit(**{"thread_id": f"t{n}", **fields})
    claims = await loom.claim(quantity)
    assert len(claims) == quantity
    return claims


async def chunks(loom: Loom, claim: Claim) -> list[Any]:
    return [data["chunk"] for type, data in await loom.log(claim.message_id) if type == "chunk"]


# Append

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


# Reading


async def read(loom: Loom, *cursors: tuple[UUID, int], quantity: int = 100) -> list[list[tuple[Any, ...]]]:
    """For each reader: (seq, type, data, last)."""
    rows = await loom.sql.fetch(
        "select * from treadle.read_events($1, $2, $3)",
        [id for id, _ in cursors],
        [after for _, after in cursors],
        quantity,
    )
    assert [(row["n"], row["seq"]) for row in rows] == sorted((row["n"], row["seq"]) for row in rows)
    assert all(row["message_id"] == cursors[row["n"] - 1][0] for row in rows)
    return [
        [
            (row["seq"], row["type"], row["data"] and json.loads(row["data"]), row["last"])
            for row in rows
            if row["n"] == n
        ]
        for n in range(1, len(cursors) + 1)
    ]


async def read_thread(loom: Loom, thread: int, after: int, quantity: int = 100) -> list[tuple[Any, ...]]:
    rows = await loom.sql.fetch(
        "select * from treadle.read_thread_events(array[$1::bigint], array[$2::bigint], $3)", thread, after, quantity
    )
    return [(row["thread_pos"], row["message_id"], row["seq"], row["type"], row["data"]) for row in rows]


async def test_a_reader_is_shown_the_whole_story(loom: Loom) -> None:
    message_id = await loom.submit("hello", thread_id="t", priority="high")
    (claim,) = await loom.claim()
    await loom.append((claim, 3, ["a"]))
    await loom.finish(claim, outcome="error", error="Oh.", first_seq=4, delay=0)
    await loom.sql.execute("select treadle.admit_due()")
    (claim,) = await loom.claim()
    await loom.finish(claim, result={"x": [1]})
    completed_at = await loom.sql.fetchval("select to_jsonb(completed_at) from treadle.messages")
    retry_at = (await loom.log(message_id))[3][1]["retry_at"]
    (events,) = await read(loom, (message_id, 0))
    assert events == [
        (1, "queued", {"message": "hello", "agent": "echo", "priority": "high", "thread_id": "t"}, False),
        (2, "started", {"attempt": 1}, False),
        (3, "chunk", {"chunk": "a"}, False),
        (4, "retry", {"attempt": 1, "error": "Oh.", "retry_at": retry_at}, False),
        (5, "started", {"attempt": 2}, False),
        (6, "done", {"state": "completed", "result": {"x": [1]}, "completed_at": completed_at}, True),
    ]


async def test_queued_and_done_are_stored_without_data(loom: Loom) -> None:
    """They are read from the message, so that log and result cannot disagree."""
    message_id = await loom.submit()
    await loom.run(result="first")
    stored = dict(await loom.log(message_id))
    assert stored["queued"] is stored["done"] is None
    await loom.sql.execute("update treadle.messages set result = '\"second\"', body = '\"other\"'")
    (events,) = await read(loom, (message_id, 0))
    assert events[0][2]["message"] == "other"
    assert events[-1][2]["result"] == "second"


async def test_a_reader_that_resumes_gets_exactly_the_rest(loom: Loom) -> None:
    (claim,) = await running(loom)
    await loom.append((claim, 3, list(range(10))))
    await loom.finish(claim, first_seq=13)
    (whole,) = await read(loom, (claim.message_id, 0))
    assert [event[0] for event in whole] == list(range(1, 14))
    cursors = [(claim.message_id, after) for after in range(15)]
    assert await read(loom, *cursors) == [whole[after:] for after in range(15)]
    assert await read(loom, *cursors, quantity=3) == [whole[after : after + 3] for after in range(15)]
    story = await read_thread(loom, claim.thread or 0, 0)
    assert [(seq, type) for _, _, seq, type, _ in story] == [(event[0], event[1]) for event in whole]
    for after in range(15):
        assert await read_thread(loom, claim.thread or 0, after) == story[after:]
        assert await read_thread(loom, claim.thread or 0, after, 4) == story[after : after + 4]


async def test_many_readers_of_many_messages_in_one_call(loom: Loom) -> None:
    one, two = await running(loom, 2)
    await loom.finish(one, chunks=["a"])
    gone = uuid4()
    cursors = [(two.message_id, 0), (gone, 0), (one.message_id, 3), (two.message_id, 2), (one.message_id, 2)]
    answers = await read(loom, *cursors)
    assert [[event[:2] for event in events] for events in answers] == [
        [(1, "queued"), (2, "started")],
        [(None, None)],
        [(4, "done")],
        [],
        [(3, "chunk"), (4, "done")],
    ]


async def test_readers_of_a_thread_that_is_gone(loom: Loom) -> None:
    (claim,) = await running(loom)
    await loom.sql.execute("select treadle.delete_thread('t0')")
    assert await read_thread(loom, claim.thread or 0, 1) == [(None, None, None, None, None)]
    assert await read(loom, (claim.message_id, 1)) == [[(None, None, None, None)]]


async def test_an_answer_has_a_limit_in_bytes_but_at_least_one_event(loom: Loom) -> None:
    (claim,) = await running(loom)
    big = "x" * 100_000
    await loom.append((claim, 3, [big * 3, "a", big, big, big, "b"]))
    answers = await read(loom, *[(claim.message_id, after) for after in range(9)])
    assert [[event[0] for event in events] for events in answers] == [
        [1, 2, 3],
        [2, 3],
        [3],
        [4, 5, 6, 7],
        [5, 6, 7],
        [6, 7, 8],
        [7, 8],
        [8],
        [],
    ]
    story = [await read_thread(loom, claim.thread or 0, after) for after in (0, 2, 3)]
    assert [[event[0] for event in events] for events in story] == [[1, 2, 3], [3], [4, 5, 6, 7]]


async def test_after_a_redrive_the_old_end_is_not_the_last(loom: Loom) -> None:
    message_id = await loom.submit(max_attempts=1, thread_id="t")
    await loom.run(outcome="error")

    async def ends() -> list[tuple[str, bool]]:
        (events,) = await read(loom, (message_id, 0))
        return [(type, last) for _, type, _, last in events if type in ("queued", "done", "error", "cancelled")]

    assert await ends() == [("queued", False), ("error", True)]
    await loom.redrive(message_id)
    assert await ends() == [("queued", False), ("error", False), ("queued", False)]
    (events,) = await read(loom, (message_id, 3))
    assert events[0][2] == {
        "message": "hello",
        "agent": "echo",
        "priority": "normal",
        "thread_id": "t",
        "redriven": True,
    }
    (claim,) = await loom.claim()
    assert not any(last for _, last in await ends())
    await loom.cancel(message_id)
    assert await loom.finish(claim) == ["cancelled"]
    assert await ends() == [("queued", False), ("error", False), ("queued", False), ("cancelled", True)]


async def test_a_thread_tells_the_events_of_all_its_messages_in_one_order(loom: Loom) -> None:
    one, two = await loom.submit(thread_id="t"), await loom.submit(thread_id="t")
    aside = await loom.submit(thread_id="t", aside=True)
    claims = {claim.message_id: claim for claim in await loom.claim(10)}
    await loom.append((claims[aside], 3, ["x"]), (claims[one], 3, ["a", "b"]))
    await loom.append((claims[aside], 4, ["y"]))
    await loom.finish(claims[one], first_seq=5)
    thread = (await loom.thread("t"))["id"]
    names = {one: "one", two: "two", aside: "aside"}
    story = [(pos, names[id], seq, type) for pos, id, seq, type, _ in await read_thread(loom, thread, 0)]
    assert story == [
        (1, "one", 1, "queued"),
        (2, "two", 1, "queued"),
        (3, "aside", 1, "queued"),
        (4, "one", 2, "started"),
        (5, "aside", 2, "started"),
        (6, "aside", 3, "chunk"),
        (7, "one", 3, "chunk"),
        (8, "one", 4, "chunk"),
        (9, "aside", 4, "chunk"),
        (10, "one", 5, "done"),
    ]


async def test_a_thread_s_log_is_dense_under_concurrent_appends_and_a_reader_misses_nothing(loom: Loom) -> None:
    writers, rounds = 4, 15
    claims = await running(loom, writers, thread_id="t", aside=True)
    thread = (await loom.thread("t"))["id"]
    looms = [await loom.connect() for _ in range(writers)]

    async def write(own: Loom, claim: Claim) -> None:
        for n in range(rounds):
            assert await own.append((claim, 3 + 2 * n, [n, n]), patient=True) == ["ok"]

    async def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < writers * (2 + 2 * rounds):
            seen += [event[0] for event in await read_thread(loom, thread, len(seen))]
        return seen

    async with asyncio.timeout(30):
        writing = [write(own, claim) for own, claim in zip(looms, claims, strict=True)]
        seen, *_ = await asyncio.gather(follow(), *writing)
    assert seen == list(range(1, len(seen) + 1))


# Partitions


async def partitions(loom: Loom) -> list[str]:
    rows = await loom.sql.fetch(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'treadle.events'::regclass order by 1"
    )
    return [row["relname"].removeprefix("events_") for row in rows]


async def days(loom: Loom, first: int, last: int) -> list[str]:
    rows = await loom.sql.fetch(
        "select to_char(treadle.clock() at time zone 'UTC' + make_interval(days => d), 'YYYYMMDD')"
        " from generate_series($1::integer, $2::integer) d",
        first,
        last,
    )
    return [row[0] for row in rows]


async def place(loom: Loom, message_id: UUID) -> str:
    name = await loom.sql.fetchval(
        "select distinct c.relname from treadle.events e join pg_class c on c.oid = e.tableoid where message_id = $1",
        message_id,
    )
    return str(name).removeprefix("events_")


async def ensure(loom: Loom, days: int = 3) -> int:
    return int(await loom.sql.fetchval("select treadle.ensure_partitions($1)", days))


async def drop(loom: Loom, days_ago: float = 0) -> int:
    return int(
        await loom.sql.fetchval(
            "select treadle.drop_partitions(treadle.clock() - make_interval(secs => $1 * 86400))", days_ago
        )
    )


async def test_there_is_a_partition_for_every_day_from_yesterday_on(loom: Loom) -> None:
    assert await partitions(loom) == [*await days(loom, -1, 3), "default"]
    assert await ensure(loom) == 0
    await loom.shift(86400)
    assert await ensure(loom) == 1
    assert await partitions(loom) == [*await days(loom, -2, 3), "default"]
    assert await place(loom, await loom.submit()) == (await days(loom, -1, -1))[0]  # ids keep to the true time


async def test_an_event_lies_where_its_message_s_id_says(loom: Loom) -> None:
    async def submit(day: int) -> UUID:
        id = await loom.sql.fetchval(
            "select overlay(treadle.uuid7()::text placing"
            " left(treadle.uuid_at(treadle.clock() + make_interval(days => $1))::text, 13) from 1)",
            day,
        )
        return await loom.submit(message_id=id)

    for day in (-1, 0, 3):
        assert [await place(loom, await submit(day))] == await days(loom, day, day)
    for day in (-2, 4):
        assert await place(loom, await submit(day)) == "default"
    # A day whose first events lie in the default partition stays there; the others get theirs.
    assert await ensure(loom, 6) == 2
    assert await partitions(loom) == [*await days(loom, -1, 3), *await days(loom, 5, 6), "default"]
    assert await place(loom, await submit(4)) == "default"
    await loom.run()


async def test_a_partition_has_the_keys_of_the_whole(loom: Loom) -> None:
    await loom.shift(30 * 86400)
    await ensure(loom)
    rows = await loom.sql.fetch(
        "select c.relname as name, array_agg(i.indkey::text order by i.indkey::text) as keys from pg_inherits h"
        " join pg_class c on c.oid = h.inhrelid join pg_index i on i.indrelid = c.oid"
        " where h.inhparent = 'treadle.events'::regclass group by 1"
    )
    assert len(rows) == 11
    assert {tuple(row["keys"]) for row in rows} == {("1 2", "4 5")}


async def test_only_what_is_old_and_empty_is_dropped(loom: Loom) -> None:
    message_id = await loom.submit()
    await loom.run()
    today = (await days(loom, 0, 0))[0]
    assert await drop(loom) == 1
    assert await partitions(loom) == [*await days(loom, 0, 3), "default"]
    await loom.shift(9 * 86400)
    await ensure(loom)
    assert await drop(loom, 7) == 1  # the day after; today's still holds something
    assert today in await partitions(loom)
    await loom.sql.execute("select treadle.purge(24, 24)")
    assert await drop(loom, 7) == 1
    assert today not in await partitions(loom)
    assert await loom.sql.fetchval("select count(*) from treadle.messages where message_id = $1", message_id) == 0


async def test_tending_partitions_does_not_hold_up_the_log(loom: Loom) -> None:
    """Somebody reads the log in a transaction that goes on: the chores give way, for a waiting one would block all."""
    reader, janitor = await loom.connect(), await loom.connect()
    async with reader.sql.transaction():
        await reader.sql.fetch("select * from treadle.events")
        await janitor.shift(86400)
        await janitor.sql.execute("set statement_timeout = '5s'")  # a chore that waited would end in this
        for chore in (ensure, drop):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await chore(janitor)
    await janitor.shift(86400)
    assert await ensure(janitor) == 1
    assert await drop(janitor) > 0


async def test_two_janitors_tend_partitions_at_once(loom: Loom) -> None:
    others = [await loom.connect() for _ in range(3)]
    for other in others:
        await other.shift(5 * 86400)
    made = await asyncio.gather(*(ensure(other) for other in others))
    assert sorted(made) == [0, 0, 5]
    dropped = await asyncio.gather(*(drop(other) for other in others))
    assert sorted(dropped) == [0, 0, 6]
