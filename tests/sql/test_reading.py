"""Readers of the event log receive every event once, in order."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from service.leases.model import Claim
from tests.support.randomness import incompressible
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.sql_states import claim_new
from tests.support.waiting import LIMIT_SECONDS


async def read(sql_client: SqlClient, *cursors: tuple[UUID, int], quantity: int = 100) -> list[list[tuple[Any, ...]]]:
    """For each reader: (seq, type, data, last); nothing for one whose cursor is beyond its log."""
    rows = await sql_client.sql.fetch(
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
            if row["n"] == n and (row["type"] is not None or row["pos"] is None)
        ]
        for n in range(1, len(cursors) + 1)
    ]


async def read_thread(sql_client: SqlClient, thread: int, after: int, quantity: int = 100) -> list[tuple[Any, ...]]:
    rows = await sql_client.sql.fetch(
        "select * from treadle.read_events(null, array[$2::bigint], $3, array[$1::bigint])", thread, after, quantity
    )
    return [
        (row["pos"], row["message_id"], row["seq"], row["type"], row["data"])
        for row in rows
        if row["type"] is not None or row["pos"] is None
    ]


async def test_a_reader_receives_the_whole_log(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit("hello", thread_id="t", priority="high")
    (claim,) = await sql_client.claim()
    await sql_client.append((claim, 3, ["a"]))
    await sql_client.finish(claim, outcome="error", error="Oh.", first_seq=4, delay=0)
    await sql_client.sql.execute("select admitted from treadle.admit_due()")
    (claim,) = await sql_client.claim()
    await sql_client.finish(claim, result={"x": [1]})
    await sql_client.sql.execute("set timezone = 'UTC'")  # as the reading functions print times
    completed_at = await sql_client.sql.fetchval("select to_jsonb(completed_at) from treadle.messages")
    retry_at = (await sql_client.log(message_id))[3][1]["retry_at"]
    (events,) = await read(sql_client, (message_id, 0))
    assert events == [
        (1, "queued", {"message": "hello", "agent": "echo", "priority": "high", "thread_id": "t"}, False),
        (2, "started", {"attempt": 1}, False),
        (3, "chunk", {"chunk": "a"}, False),
        (4, "retry", {"attempt": 1, "error": "Oh.", "retry_at": retry_at}, False),
        (5, "started", {"attempt": 2}, False),
        (6, "done", {"state": "completed", "result": {"x": [1]}, "completed_at": completed_at}, True),
    ]


async def test_queued_and_done_are_stored_without_data(sql_client: SqlClient) -> None:
    """Readers receive them from the message, so log and result cannot disagree."""
    message_id = await sql_client.submit()
    await sql_client.run(result="first")
    stored = dict(await sql_client.log(message_id))
    assert stored["queued"] is stored["done"] is None
    await sql_client.sql.execute("update treadle.messages set result = '\"second\"', body = '\"other\"'")
    (events,) = await read(sql_client, (message_id, 0))
    assert events[0][2]["message"] == "other"
    assert events[-1][2]["result"] == "second"


async def test_a_reader_that_resumes_receives_exactly_the_remaining_events(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    await sql_client.append((claim, 3, list(range(10))))
    await sql_client.finish(claim, first_seq=13)
    (whole,) = await read(sql_client, (claim.message_id, 0))
    assert [event[0] for event in whole] == list(range(1, 14))
    cursors = [(claim.message_id, after) for after in range(15)]
    assert await read(sql_client, *cursors) == [whole[after:] for after in range(15)]
    assert await read(sql_client, *cursors, quantity=3) == [whole[after : after + 3] for after in range(15)]
    story = await read_thread(sql_client, claim.thread or 0, 0)
    assert [(seq, type) for _, _, seq, type, _ in story] == [(event[0], event[1]) for event in whole]
    for after in range(15):
        assert await read_thread(sql_client, claim.thread or 0, after) == story[after:]
        assert await read_thread(sql_client, claim.thread or 0, after, 4) == story[after : after + 4]


async def test_many_readers_of_many_messages_in_one_call(sql_client: SqlClient) -> None:
    one, two = await claim_new(sql_client, 2)
    await sql_client.finish(one, chunks=["a"])
    unknown = uuid4()
    cursors = [(two.message_id, 0), (unknown, 0), (one.message_id, 3), (two.message_id, 2), (one.message_id, 2)]
    answers = await read(sql_client, *cursors)
    assert [[event[:2] for event in events] for events in answers] == [
        [(1, "queued"), (2, "started")],
        [(None, None)],
        [(4, "done")],
        [],
        [(3, "chunk"), (4, "done")],
    ]


async def test_readers_of_a_deleted_thread(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    await sql_client.sql.execute("select treadle.delete_thread('t0')")
    assert await read_thread(sql_client, claim.thread or 0, 1) == [(None, None, None, None, None)]
    assert await read(sql_client, (claim.message_id, 1)) == [[(None, None, None, False)]]


async def paged(sql_client: SqlClient, claim: Claim, **settings: Any) -> list[tuple[list[int], bool]]:
    """For readers after 0, 1, 2, ...: what a page has of the log, and whether more follows. Both kinds of log agree."""
    given = "".join(f", {name} => {value}" for name, value in settings.items())
    afters = list(range(10))
    ids, threads = [claim.message_id] * len(afters), [claim.thread] * len(afters)
    pages = []
    for arguments, log in (("$1, $2", ids), ("null, $2, threads => $1", threads)):
        rows = await sql_client.sql.fetch(f"select * from treadle.read_events({arguments}{given})", log, afters)
        of = [[row for row in rows if row["n"] == n] for n in range(1, len(afters) + 1)]
        assert all(row["more"] is False for events in of for row in events[:-1])
        pages.append([([row["pos"] for row in page if row["type"]], bool(page and page[-1]["more"])) for page in of])
    assert pages[0] == pages[1]
    return pages[0]


async def test_a_page_is_limited_in_bytes_but_has_at_least_one_event(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    big = incompressible(100_000)
    await sql_client.append((claim, 3, [big * 3, "a", big, big, big, "b"]))
    assert await paged(sql_client, claim) == [
        ([1, 2], True),
        ([2], True),
        ([3], True),
        ([4, 5, 6], True),
        ([5, 6], True),
        ([6, 7, 8], False),
        ([7, 8], False),
        ([8], False),
        ([], False),
        ([], False),
    ]
    assert await paged(sql_client, claim, page_bytes=1000, at_least_one="false") == [
        ([1, 2], True),
        ([2], True),
        ([], True),
        ([4], True),
        ([], True),
        ([], True),
        ([], True),
        ([8], False),
        ([], False),
        ([], False),
    ]
    assert (await paged(sql_client, claim, quantity=2))[0] == ([1, 2], True)
    assert (await paged(sql_client, claim, quantity=1, at_least_one="false"))[7:9] == [([8], False), ([], False)]


@pytest.mark.new_database
async def test_a_page_does_not_read_the_large_events_behind_it(sql_client: SqlClient) -> None:
    """Also of events that compress well: their size is estimated without reading them."""
    for partition in await sql_client.sql.fetch(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'treadle.events'::regclass"
    ):  # its blocks would be counted, too
        await sql_client.sql.execute(
            f"alter table {partition[0]} set (autovacuum_enabled = off, toast.autovacuum_enabled = off)"
        )
    (claim,) = await claim_new(sql_client)
    for seq in range(3, 23):
        await sql_client.append((claim, seq, [incompressible(500_000) if seq % 2 else "x" * 500_000]))

    async def toast_blocks() -> int:
        await sql_client.sql.execute("select pg_stat_force_next_flush()")
        await sql_client.sql.execute("select pg_stat_clear_snapshot()")
        return int(
            await sql_client.sql.fetchval(
                "select sum(coalesce(toast_blks_hit, 0) + coalesce(toast_blks_read, 0))"
                " from pg_statio_all_tables where schemaname = 'treadle' and relname like 'events%'"
            )
        )

    for log in ("array[$1::uuid], array[2]", "null, array[2], threads => array[$1::bigint]"):
        before = await toast_blocks()
        rows = await sql_client.sql.fetch(
            f"select * from treadle.read_events({log})", claim.thread if "null" in log else claim.message_id
        )
        assert [row["pos"] for row in rows] == [3]
        assert await toast_blocks() - before < 2 * 500_000 / 8192 * 3


async def test_a_cursor_beyond_the_log_is_told_where_the_log_ends(sql_client: SqlClient) -> None:
    (claim,) = await claim_new(sql_client)
    for log, key in (
        ("array[$1::uuid], array[$2::bigint]", claim.message_id),
        ("null, array[$2::bigint], threads => array[$1::bigint]", claim.thread),
    ):
        for after, told in ((1, [(2, "started")]), (2, []), (3, [(2, None)]), (2**31 - 1, [(2, None)])):
            rows = await sql_client.sql.fetch(f"select * from treadle.read_events({log})", key, after)
            assert [(row["pos"], row["type"]) for row in rows] == told
            assert not any(row["more"] for row in rows)


async def test_the_logs_that_have_grown_are_those_that_a_reader_would_learn_something_from(
    sql_client: SqlClient,
) -> None:
    """A reader at each place of each log: `read_events` has a row for it, or `grown_logs` leaves it out."""
    open_, ended, deleted = await claim_new(sql_client, 3)
    await sql_client.append((open_, 3, ["a"]))
    await sql_client.finish(ended)
    await sql_client.sql.execute("select treadle.delete_thread('t2')")
    afters = [after for _ in range(3) for after in range(5)]
    ids = [claim.message_id for claim in (open_, ended, deleted) for _ in range(5)]
    threads = [claim.thread for claim in (open_, ended, deleted) for _ in range(5)]
    for grown, learned, logs in (
        ("$1, null, $2", "$1, $2", ids),
        ("null, $1, $2", "null, $2, threads => $1", threads),
    ):
        rows = await sql_client.sql.fetch(f"select n from treadle.grown_logs({grown})", logs, afters)
        told = await sql_client.sql.fetch(f"select distinct n from treadle.read_events({learned})", logs, afters)
        assert {row["n"] for row in rows} == {row["n"] for row in told}
        assert {row["n"] for row in rows} == set(range(1, 16)) - {4, 9}  # the ends of the first two


async def test_after_a_redrive_the_old_final_event_is_not_the_last(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=1, thread_id="t")
    await sql_client.run(outcome="error")

    async def ends() -> list[tuple[str, bool]]:
        (events,) = await read(sql_client, (message_id, 0))
        return [(type, last) for _, type, _, last in events if type in ("queued", "done", "error", "cancelled")]

    assert await ends() == [("queued", False), ("error", True)]
    await sql_client.redrive(message_id)
    assert await ends() == [("queued", False), ("error", False), ("queued", False)]
    (events,) = await read(sql_client, (message_id, 3))
    assert events[0][2] == {
        "message": "hello",
        "agent": "echo",
        "priority": "normal",
        "thread_id": "t",
        "redriven": True,
    }
    (claim,) = await sql_client.claim()
    assert not any(last for _, last in await ends())
    await sql_client.cancel(message_id)
    assert await sql_client.finish(claim) == ["cancelled"]
    assert await ends() == [("queued", False), ("error", False), ("queued", False), ("cancelled", True)]


async def test_a_threads_log_has_the_events_of_all_its_messages_in_one_order(sql_client: SqlClient) -> None:
    one, two = await sql_client.submit(thread_id="t"), await sql_client.submit(thread_id="t")
    aside = await sql_client.submit(thread_id="t", aside=True)
    claims = {claim.message_id: claim for claim in await sql_client.claim(10)}
    await sql_client.append((claims[aside], 3, ["x"]), (claims[one], 3, ["a", "b"]))
    await sql_client.append((claims[aside], 4, ["y"]))
    await sql_client.finish(claims[one], first_seq=5)
    thread = (await sql_client.thread("t"))["id"]
    names = {one: "one", two: "two", aside: "aside"}
    story = [(pos, names[id], seq, type) for pos, id, seq, type, _ in await read_thread(sql_client, thread, 0)]
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


async def test_a_threads_log_stays_dense_under_concurrent_appends(
    sql_client: SqlClient,
) -> None:
    writers, rounds = 4, 15
    claims = await claim_new(sql_client, writers, thread_id="t", aside=True)
    thread = (await sql_client.thread("t"))["id"]
    sql_clients = [await sql_client.connect() for _ in range(writers)]

    async def write(own: SqlClient, claim: Claim) -> None:
        for n in range(rounds):
            item = (claim, 3 + 2 * n, [n, n])
            assert await persist(lambda item=item: own.append(item, patient=True)) == ["ok"]  # type: ignore[misc]

    async def follow() -> list[int]:
        seen: list[int] = []
        while len(seen) < writers * (2 + 2 * rounds):
            seen += [event[0] for event in await read_thread(sql_client, thread, len(seen))]
        return seen

    async with asyncio.timeout(LIMIT_SECONDS):
        writing = [write(own, claim) for own, claim in zip(sql_clients, claims, strict=True)]
        following = asyncio.create_task(follow())
        await asyncio.gather(following, *writing)
    seen = following.result()
    assert seen == list(range(1, len(seen) + 1))
