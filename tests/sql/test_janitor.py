"""The janitor's chores: what is due, counters, and the net under everything."""

import asyncio
import json
from typing import Any

from tests.support.invariants import assert_consistent
from tests.support.sql_client import Loom

DAY = 86400


async def number(loom: Loom, query: str, *arguments: Any) -> int:
    return int(await loom.sql.fetchval(query, *arguments))


# What is due


ADMIT = "select treadle.admit_due()"


async def test_what_is_due_is_admitted_and_nothing_else(loom: Loom) -> None:
    soon, later = await loom.submit(delay_seconds=10), await loom.submit(delay_seconds=20)
    failed = await loom.submit()
    (claim,) = await loom.claim()
    await loom.finish(claim, outcome="error", delay=15)
    for seconds, due in ((9, []), (11, [soon]), (14, []), (16, [failed]), (21, [later])):
        await loom.shift(seconds)
        assert await number(loom, ADMIT) == len(due)
        assert [claim.message_id for claim in await loom.claim(10)] == due


async def test_a_few_at_a_time(loom: Loom) -> None:
    await loom.submit_many(*[{"delay_seconds": n + 1} for n in range(5)])
    await loom.shift(60)
    counts = [await number(loom, "select treadle.admit_due(2)") for _ in range(4)]
    assert counts == [2, 2, 1, 0]


async def test_admitting_waits_for_nobody(loom: Loom) -> None:
    held = await loom.submit(thread_id="t", delay_seconds=1)
    locked, free = await loom.submit(delay_seconds=1), await loom.submit(delay_seconds=1, thread_id="u")
    other = await loom.connect()
    await loom.shift(2)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await loom.sql.execute("set lock_timeout = '1ms'")
        assert await number(loom, ADMIT) == 1
        assert await loom.state(free) == ("queued", None)
    assert await number(loom, ADMIT) == 2
    assert await loom.state(held) == await loom.state(locked) == ("queued", None)


async def test_behind_however_many_held_messages_what_is_due_is_found(loom: Loom) -> None:
    await loom.submit_many(*[{"thread_id": "t", "delay_seconds": 1}] * 10)
    free = await loom.submit(delay_seconds=2)
    other = await loom.connect()
    await loom.shift(3)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for update")
        assert await number(loom, "select treadle.admit_due(2)") == 1
        assert await loom.state(free) == ("queued", None)
        assert await number(loom, "select treadle.admit_due(2)") == 0


async def test_several_of_a_thread_come_due_at_once(loom: Loom) -> None:
    rows = await loom.submit_many(
        {"thread_id": "t", "delay_seconds": 3},
        {"thread_id": "t", "delay_seconds": 2, "priority": "high"},
        {"thread_id": "t", "delay_seconds": 1, "aside": True},
        {"thread_id": "t", "delay_seconds": 99},
    )
    normal, high, aside, later = [row["message_id"] for row in rows]
    await loom.shift(5)
    assert await number(loom, ADMIT) == 3
    assert [await loom.state(id) for id in (normal, high, aside, later)] == [
        ("queued", "thread"),
        ("queued", None),
        ("queued", None),
        ("queued", "delay"),
    ]
    assert (await loom.thread("t"))["turn"] == high


async def test_two_janitors_admit_each_message_once(loom: Loom) -> None:
    await loom.submit_many(*[{"thread_id": f"t{n % 5}" if n % 3 else None, "delay_seconds": 1} for n in range(60)])
    janitors = [await loom.connect() for _ in range(3)]
    for janitor in janitors:
        await janitor.shift(2)
    admitted = 0
    while admitted < 60:
        admitted += sum(await asyncio.gather(*(number(janitor, "select treadle.admit_due(7)") for janitor in janitors)))
    assert admitted == 60
    await loom.shift(2)
    await assert_consistent(loom.sql)


# Counters


async def sums(loom: Loom) -> list[Any]:
    rows = await loom.sql.fetch(
        "select queue, sum(queued), sum(processing), sum(completed), sum(failed), sum(cancelled),"
        " round(sum(busy)::numeric, 6) from treadle.counters group by queue order by queue"
    )
    return [tuple(row) for row in rows]


async def test_folding_keeps_the_sums(loom: Loom) -> None:
    await loom.register({"agent": "other", "queue": "side"})
    for n in range(20):
        await loom.submit(agent="other" if n % 3 else "echo")
    for queue in ("default", "side"):
        for n, claim in enumerate(await loom.claim(5, queues=[queue])):
            await loom.finish(claim, outcome=["completed", "rejected", "error", "released"][n % 4])
    before = await sums(loom)
    assert await number(loom, "select treadle.fold_counters(10)") == 10
    assert await sums(loom) == before
    await number(loom, "select treadle.fold_counters()")
    assert await sums(loom) == before
    rows = await number(loom, "select count(*) from treadle.counters")
    assert rows <= 2 * 12  # a row for each queue and ten seconds; ours took less than two minutes
    await loom.shift(400)
    assert await number(loom, "select treadle.fold_counters()") == rows
    assert await sums(loom) == before
    assert [row[0] for row in await loom.sql.fetch("select slot::text from treadle.counters")] == ["-infinity"] * 2


async def test_a_reader_sees_the_same_sums_while_others_count_and_fold(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 20)
    wanted = await number(loom, "select sum(queued + processing + completed) from treadle.counters")
    done = asyncio.Event()

    async def fold(own: Loom) -> None:
        while not done.is_set():
            await number(own, "select treadle.fold_counters(5)")

    async def work(own: Loom) -> None:
        while await own.run(1):
            pass

    async def look(own: Loom) -> None:
        while not done.is_set():
            assert await number(own, "select sum(queued + processing + completed) from treadle.counters") == wanted

    looms = [await loom.connect() for _ in range(4)]
    tasks = [asyncio.create_task(task) for task in (fold(looms[0]), fold(looms[1]), look(looms[2]))]
    await work(looms[3])
    done.set()
    await asyncio.gather(*tasks)


# The net


async def mend(loom: Loom, quantity: int = 5000) -> list[int]:
    """All the way through; returns how many each call mended."""
    after, mended = None, []
    while True:
        row = await loom.sql.fetchrow("select * from treadle.mend_lanes($1, $2)", after, quantity)
        if row["last"] is None:
            return mended
        mended.append(row["mended"])
        after = row["last"]


async def test_a_purged_lane_is_mended(loom: Loom) -> None:
    ids = [await loom.submit(priority=priority) for priority in ("high", "normal", "low", "normal")]
    held = [await loom.submit(thread_id="t") for _ in range(2)][1]
    delayed = await loom.submit(delay_seconds=60)
    running = (await loom.claim())[0]
    for lane in ("high", "normal", "low"):
        await loom.sql.execute("select pgmq.purge_queue($1)", f"default_{lane}")
    again = await loom.submit()
    assert await mend(loom) == [4]
    assert await mend(loom) == [0]
    assert await loom.state(held) == ("queued", "thread")
    assert await loom.state(delayed) == ("queued", "delay")
    assert await loom.finish(running) == ["completed"]
    claims = {claim.message_id for claim in await loom.claim(10)}
    assert claims == {*ids[1:], (await loom.thread("t"))["turn"], again}
    assert running.message_id == ids[0]


async def test_a_running_message_whose_lane_was_purged_goes_on_and_comes_back(loom: Loom) -> None:
    for outcome in ("completed", "error", "released", "rejected"):
        await loom.submit(outcome)
    claims = await loom.claim(10)
    await loom.sql.execute("select pgmq.purge_queue('default_normal')")
    await loom.shift(40)
    await loom.beat("w", *claims)
    for claim in claims:
        await loom.finish(claim, outcome=json.loads(claim.body), delay=0)
    await loom.sql.execute(ADMIT)
    assert sorted(json.loads(claim.body) for claim in await loom.claim(10)) == ["error", "released"]


async def test_mending_goes_through_the_table_in_parts(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 10)
    await loom.sql.execute("select pgmq.purge_queue('default_normal')")
    assert await mend(loom, 4) == [4, 4, 2]
    assert len(await loom.claim(100)) == 10


async def test_mending_passes_over_what_others_hold(loom: Loom) -> None:
    locked, free = await loom.submit(), await loom.submit()
    await loom.sql.execute("select pgmq.purge_queue('default_normal')")
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await loom.sql.execute("set lock_timeout = '1ms'")
        assert await mend(loom) == [1]
    assert await mend(loom) == [1]
    assert {claim.message_id for claim in await loom.claim(10)} == {locked, free}
