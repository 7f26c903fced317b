"""The janitor's chores: due messages, counters, lost lane rows."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

DAY = 86400


async def number(sql_client: SqlClient, query: str, *arguments: Any) -> int:
    return int(await sql_client.sql.fetchval(query, *arguments))


# Due messages


ADMIT = "select admitted from treadle.admit_due()"


async def test_due_messages_are_admitted_and_no_others(sql_client: SqlClient) -> None:
    soon, later = await sql_client.submit(delay_seconds=10), await sql_client.submit(delay_seconds=20)
    failed = await sql_client.submit()
    (claim,) = await sql_client.claim()
    await sql_client.finish(claim, outcome="error", delay=15)
    for seconds, due in ((9, []), (11, [soon]), (14, []), (16, [failed]), (21, [later])):
        await sql_client.shift_clock(seconds)
        assert await number(sql_client, ADMIT) == len(due)
        assert [claim.message_id for claim in await sql_client.claim(10)] == due


async def test_a_call_admits_at_most_its_quantity(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{"delay_seconds": n + 1} for n in range(5)])
    await sql_client.shift_clock(60)
    counts = [await number(sql_client, "select admitted from treadle.admit_due(2)") for _ in range(4)]
    assert counts == [2, 2, 1, 0]


async def test_admitting_waits_for_no_lock(sql_client: SqlClient) -> None:
    held = await sql_client.submit(thread_id="t", delay_seconds=1)
    locked, free = await sql_client.submit(delay_seconds=1), await sql_client.submit(delay_seconds=1, thread_id="u")
    other = await sql_client.connect()
    await sql_client.shift_clock(2)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await sql_client.limit_lock_waits()
        assert await number(sql_client, ADMIT) == 1
        assert await sql_client.state(free) == ("queued", None)
    assert await number(sql_client, ADMIT) == 2
    assert await sql_client.state(held) == await sql_client.state(locked) == ("queued", None)


async def test_due_messages_are_found_behind_any_number_of_locked_ones(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{"thread_id": "t", "delay_seconds": 1}] * 10)
    free = await sql_client.submit(delay_seconds=2)
    other = await sql_client.connect()
    await sql_client.shift_clock(3)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for update")
        assert await number(sql_client, "select admitted from treadle.admit_due(2)") == 1
        assert await sql_client.state(free) == ("queued", None)
        assert await number(sql_client, "select admitted from treadle.admit_due(2)") == 0


async def test_several_messages_of_a_thread_become_due_at_once(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(
        {"thread_id": "t", "delay_seconds": 3},
        {"thread_id": "t", "delay_seconds": 2, "priority": "high"},
        {"thread_id": "t", "delay_seconds": 1, "aside": True},
        {"thread_id": "t", "delay_seconds": 99},
    )
    normal, high, aside, later = [row["message_id"] for row in rows]
    await sql_client.shift_clock(5)
    assert await number(sql_client, ADMIT) == 3
    assert [await sql_client.state(id) for id in (normal, high, aside, later)] == [
        ("queued", "thread"),
        ("queued", None),
        ("queued", None),
        ("queued", "delay"),
    ]
    assert (await sql_client.thread("t"))["turn"] == high


async def test_two_janitors_admit_each_message_once(sql_client: SqlClient) -> None:
    await sql_client.submit_many(
        *[{"thread_id": f"t{n % 5}" if n % 3 else None, "delay_seconds": 1} for n in range(60)]
    )
    janitors = [await sql_client.connect() for _ in range(3)]
    for janitor in janitors:
        await janitor.shift_clock(2)
    admitted = 0
    while admitted < 60:
        admitted += sum(
            await asyncio.gather(
                *(number(janitor, "select admitted from treadle.admit_due(7)") for janitor in janitors)
            )
        )
    assert admitted == 60
    await sql_client.shift_clock(2)
    await assert_consistent(sql_client.sql)


# Counters


async def sums(sql_client: SqlClient) -> list[Any]:
    rows = await sql_client.sql.fetch(
        "select queue, sum(queued), sum(processing), sum(completed), sum(failed), sum(cancelled),"
        " round(sum(run_seconds)::numeric, 6) from treadle.counters group by queue order by queue"
    )
    return [tuple(row) for row in rows]


async def test_folding_keeps_the_sums(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "other", "queue": "side"})
    for n in range(20):
        await sql_client.submit(agent="other" if n % 3 else "echo")
    for queue in ("default", "side"):
        for n, claim in enumerate(await sql_client.claim(5, queues=[queue])):
            await sql_client.finish(claim, outcome=["completed", "rejected", "error", "released"][n % 4])
    before = await sums(sql_client)
    assert await number(sql_client, "select treadle.fold_counters(10)") == 10
    assert await sums(sql_client) == before
    await number(sql_client, "select treadle.fold_counters()")
    assert await sums(sql_client) == before
    rows = await number(sql_client, "select count(*) from treadle.counters")
    assert rows <= 2 * 12  # a row for each queue and ten seconds; ours took less than two minutes
    await sql_client.shift_clock(400)
    assert await number(sql_client, "select treadle.fold_counters()") == rows
    assert await sums(sql_client) == before
    assert [row[0] for row in await sql_client.sql.fetch("select slot::text from treadle.counters")] == [
        "-infinity"
    ] * 2


async def test_a_reader_sees_the_same_sums_while_others_count_and_fold(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 20)
    wanted = await number(sql_client, "select sum(queued + processing + completed) from treadle.counters")
    done = asyncio.Event()

    async def fold(own: SqlClient) -> None:
        while not done.is_set():
            await number(own, "select treadle.fold_counters(5)")

    async def work(own: SqlClient) -> None:
        while await own.run(1):
            pass

    async def look(own: SqlClient) -> None:
        while not done.is_set():
            assert await number(own, "select sum(queued + processing + completed) from treadle.counters") == wanted

    sql_clients = [await sql_client.connect() for _ in range(4)]
    tasks = [asyncio.create_task(task) for task in (fold(sql_clients[0]), fold(sql_clients[1]), look(sql_clients[2]))]
    await work(sql_clients[3])
    done.set()
    await asyncio.gather(*tasks)


# Lost lane rows


async def mend(sql_client: SqlClient, quantity: int = 5000) -> list[int]:
    """Calls mend_lanes until the end of the table; returns how many each call mended."""
    after = None
    mended: list[int] = []
    while True:
        row = await fetch_row(sql_client.sql, "select * from treadle.mend_lanes($1, $2)", after, quantity)
        if row["last"] is None:
            return mended
        mended.append(row["mended"])
        after = row["last"]


async def test_a_purged_lane_is_mended(sql_client: SqlClient) -> None:
    ids = [await sql_client.submit(priority=priority) for priority in ("high", "normal", "low", "normal")]
    held = [await sql_client.submit(thread_id="t") for _ in range(2)][1]
    delayed = await sql_client.submit(delay_seconds=60)
    running = (await sql_client.claim())[0]
    for lane in ("high", "normal", "low"):
        await sql_client.sql.execute("select pgmq.purge_queue($1)", f"default_{lane}")
    again = await sql_client.submit()
    assert await mend(sql_client) == [4]
    assert await mend(sql_client) == [0]
    assert await sql_client.state(held) == ("queued", "thread")
    assert await sql_client.state(delayed) == ("queued", "delay")
    assert await sql_client.finish(running) == ["completed"]
    claims = {claim.message_id for claim in await sql_client.claim(10)}
    assert claims == {*ids[1:], (await sql_client.thread("t"))["turn"], again}
    assert running.message_id == ids[0]


async def test_a_running_message_whose_lane_was_purged_goes_on_and_comes_back(sql_client: SqlClient) -> None:
    for outcome in ("completed", "error", "released", "rejected"):
        await sql_client.submit(outcome)
    claims = await sql_client.claim(10)
    await sql_client.sql.execute("select pgmq.purge_queue('default_normal')")
    await sql_client.shift_clock(40)
    await sql_client.heartbeat("w", *claims)
    for claim in claims:
        await sql_client.finish(claim, outcome=json.loads(claim.body), delay=0)
    await sql_client.sql.execute(ADMIT)
    assert sorted(json.loads(claim.body) for claim in await sql_client.claim(10)) == ["error", "released"]


async def test_a_purged_lane_is_restored_without_a_look_at_the_messages_before_it(sql_client: SqlClient) -> None:
    """However many messages are finished: the purge itself notes the rows that it removes."""
    await sql_client.submit_many(*[{}] * 200)
    await sql_client.finish(*await sql_client.claim(200))
    ids = {await sql_client.submit(priority=priority) for priority in ("high", "normal", "normal", "low")}
    (running,) = await sql_client.claim()
    for lane in ("high", "normal", "low"):
        await sql_client.sql.execute("select pgmq.purge_queue($1)", f"default_{lane}")
    assert await sql_client.sql.fetchval("select count(*) from treadle.lost_rows") == 4
    assert set(await sql_client.sql.fetchval("select queues from treadle.sweep()")) == {"default"}
    assert {claim.message_id for claim in await sql_client.claim(10)} == ids - {running.message_id}
    assert await sql_client.sql.fetchval("select count(*) from treadle.lost_rows") == 0
    assert await mend(sql_client) == []  # nothing is queued
    assert await sql_client.finish(running) == ["completed"]


@pytest.mark.parametrize(
    "statement",
    [
        "delete from pgmq.q_default_normal",
        "select pgmq.delete('default_normal', array(select msg_id from pgmq.q_default_normal))",
        "select pgmq.archive('default_normal', array(select msg_id from pgmq.q_default_normal))",
        "select pgmq.pop('default_normal', 10)",
    ],
)
async def test_rows_deleted_by_hand_are_restored_without_a_look_at_the_messages_before_them(
    sql_client: SqlClient, statement: str
) -> None:
    """However many messages are finished: each row that is deleted is noted, and none that our functions delete."""
    await sql_client.submit_many(*[{}] * 200)
    await sql_client.finish(*await sql_client.claim(200))
    assert await sql_client.sql.fetchval("select count(*) from treadle.lost_rows") == 0
    ids = {await sql_client.submit() for _ in range(4)}
    deleted = await sql_client.sql.fetchval("select count(*) from pgmq.q_default_normal")
    await sql_client.sql.execute(statement)
    assert await sql_client.sql.fetchval("select count(*) from pgmq.q_default_normal") == 0
    assert await sql_client.sql.fetchval("select count(*) from treadle.lost_rows") == deleted == 4
    assert set(await sql_client.sql.fetchval("select queues from treadle.sweep()")) == {"default"}
    assert {claim.message_id for claim in await sql_client.claim(10)} == ids


async def test_a_message_that_is_held_after_its_row_was_deleted_comes_back_later(sql_client: SqlClient) -> None:
    held, free = await sql_client.submit(), await sql_client.submit()
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", held)
        await sql_client.limit_lock_waits()
        await sql_client.sql.execute("delete from pgmq.q_default_normal")
        await sql_client.sql.execute("select treadle.sweep()")
        assert [claim.message_id for claim in await sql_client.claim(10)] == [free]
    await sql_client.sql.execute("select treadle.sweep()")
    assert [claim.message_id for claim in await sql_client.claim(10)] == [held]


async def test_mending_looks_at_the_table_in_chunks(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 10)
    await sql_client.sql.execute("select pgmq.purge_queue('default_normal')")
    assert await mend(sql_client, 4) == [4, 4, 2]
    assert len(await sql_client.claim(100)) == 10


async def test_mending_passes_over_locked_messages(sql_client: SqlClient) -> None:
    locked, free = await sql_client.submit(), await sql_client.submit()
    await sql_client.sql.execute("select pgmq.purge_queue('default_normal')")
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await sql_client.limit_lock_waits()
        assert await mend(sql_client) == [1]
    assert await mend(sql_client) == [1]
    assert {claim.message_id for claim in await sql_client.claim(10)} == {locked, free}
