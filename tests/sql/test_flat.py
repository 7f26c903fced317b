"""Costs that do not grow: low-water marks keep dead rows, of a lane's head and of the counters, out of everybody's way
and never pass by a row that lives."""

import json
from typing import Any

import pytest

from tests.conftest import until
from tests.support.sql_client import Loom

DEAD = 50_000
LOW = "select low from treadle.low_water where name = $1"
LANE = "q_default_normal"


async def sweep(loom: Loom) -> int:
    """Returns the lane's mark."""
    await loom.sql.execute("select treadle.sweep(true)")
    return await low(loom)


async def sweep_past(loom: Loom, lane_id: int) -> None:
    """One sweep notices, a later one raises the mark, when whoever was under way (on the whole server) has ended."""
    await until(lambda: sweep(loom), lambda mark: mark > lane_id)


async def low(loom: Loom, name: str = LANE) -> int:
    return int(await loom.sql.fetchval(LOW, name))


async def fold_past(loom: Loom, counter: int) -> None:
    async def fold() -> int:
        await loom.sql.fetchval(f"select treadle.fold_counters({2 * DEAD})")
        return await low(loom, "counters")

    await until(fold, lambda mark: mark > counter)


async def buffers(loom: Loom, call: str, *args: Any) -> int:
    """Pages that a call touches, whatever it does inside; what it does is rolled back."""
    transaction = loom.sql.transaction()
    await transaction.start()
    try:
        await loom.sql.fetch(call, *args)  # plans are made
        (explained,) = await loom.sql.fetchrow(f"explain (analyze, buffers, format json) {call}", *args) or ()
        plan = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
        return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])
    finally:
        await transaction.rollback()


CALLS = {
    "claim": ("select * from treadle.claim_2('w', '{default}', 1, 60)", 150),
    "submit": ('select * from treadle.submit_many(\'[{"message": "x"}]\', max_queue_size => 1000000)', 250),
    "queue_position": ("select treadle.queue_position(message_id) from treadle.messages where state = 'queued'", 100),
    "queue_overview": ("select * from treadle.queue_overview", 150),
    "waiting": ("select * from treadle.waiting()", 100),
}


async def test_dead_rows_at_the_head_of_a_lane_cost_nothing(loom: Loom) -> None:
    await loom.submit()
    reader = await loom.connect()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")  # from now on nothing can be vacuumed
        await loom.claim()
        await loom.sql.execute(
            f"insert into pgmq.{LANE} (vt, enqueued_at, message)"
            f" select now(), now(), '{{}}' from generate_series(1, {DEAD})"
        )
        await loom.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
        await loom.sql.execute(
            "insert into treadle.counters (queue, slot, completed)"
            f" select 'default', '-infinity', 0 from generate_series(1, {DEAD})"
        )
        await loom.submit()
        await loom.sql.execute(f"vacuum pgmq.{LANE}")
        before = {name: await buffers(loom, call) for name, (call, _) in CALLS.items()}
        assert all(before[name] > 4 * most for name, (_, most) in CALLS.items()), before  # so it would be without

        await sweep_past(loom, DEAD)
        await fold_past(loom, DEAD)
        after = {name: await buffers(loom, call) for name, (call, _) in CALLS.items()}
        assert all(after[name] <= most for name, (_, most) in CALLS.items()), after
    assert len(await loom.claim(10)) == 1


@pytest.mark.parametrize("newest", [False, True])
async def test_a_mark_does_not_pass_what_is_still_to_be_committed(loom: Loom, newest: bool) -> None:
    slow = await loom.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    late = None if newest else await slow.submit()
    await loom.submit_many(*[{}] * 1500)
    assert len(await loom.claim(1500)) == 1500
    late = late or await slow.submit()  # and where it is the newest, nobody has a newer transaction
    for _ in range(5):
        assert await sweep(loom) <= (1501 if newest else 1)
    await transaction.commit()
    assert [claim.message_id for claim in await loom.claim(10)] == [late]
    await sweep_past(loom, 1500)


async def test_a_mark_goes_back_to_what_shows_again(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 1500)
    hidden = await loom.sql.fetchval(f"select min(msg_id) from pgmq.{LANE}")
    await loom.sql.execute("select from pgmq.set_vt('default_normal', $1::bigint, 100)", hidden)
    await loom.claim(1499)
    await sweep_past(loom, hidden + 1400)
    assert await loom.claim(1) == []
    await loom.shift(200)
    assert await sweep(loom) == hidden
    assert len(await loom.claim(1)) == 1


async def test_a_short_way_is_not_worth_a_write(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 20)
    await loom.claim(20)
    for _ in range(3):
        assert await sweep(loom) == 0


async def test_counters_stay_exact_past_a_transaction_that_commits_late(loom: Loom) -> None:
    async def queued() -> int:
        return int(await loom.sql.fetchval("select sum(queued) from treadle.queue_counts"))

    await loom.sql.execute(
        "insert into treadle.counters (queue, slot) select 'default', now() from generate_series(1, 2000)"
    )
    slow = await loom.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    await slow.submit_many({}, {})  # and nobody has a newer transaction
    for _ in range(3):
        await loom.sql.fetchval("select treadle.fold_counters()")
        assert await queued() == 0
    await transaction.commit()
    assert await queued() == 2
    await fold_past(loom, 1000)
    assert await queued() == 2


async def test_marks_of_another_server_do_not_stay_for_ever(loom: Loom) -> None:
    """After a dump and restore transaction ids begin anew: a mark that waits for one of before must not wait on."""
    await loom.sql.execute(
        f"update treadle.low_water set next_low = 7, next_xid = 1::bigint << 40 where name = '{LANE}'"
    )
    await loom.submit_many(*[{}] * 1500)
    await loom.claim(1500)
    await sweep_past(loom, 1400)


async def test_the_watch_names_the_oldest_snapshot(loom: Loom) -> None:
    reader = await loom.connect()
    before = await loom.sql.fetchrow("select * from treadle.vacuum_health()")
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        pid = await reader.sql.fetchval("select pg_backend_pid()")
        health = await loom.sql.fetchrow("select * from treadle.vacuum_health()")
    assert before is not None
    assert health is not None
    assert str(pid) in health["holder"]
    assert health["snapshot_seconds"] >= 0
    assert before["holder"] is None or str(pid) not in before["holder"]


async def test_leases_that_are_gone_are_not_looked_at(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 1500)
    await loom.finish(*await loom.claim(1500))
    await loom.submit()
    (held,) = await loom.claim(1)
    first = await loom.sql.fetchval("select id from treadle.leases")
    await until(lambda: _sweep_leases(loom), lambda mark: mark == first)
    assert await loom.beat("w", grace=0) == {}
    assert (
        await loom.sql.fetchval("select state from treadle.messages where message_id = $1", held.message_id) == "queued"
    )


async def test_no_mark_passes_a_claim_that_is_still_to_be_committed(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 1501)
    await loom.finish(*await loom.claim(1500))
    slow = await loom.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    (claim,) = await slow.claim(1)  # and nobody has a newer transaction
    for _ in range(3):
        await sweep(loom)
    await transaction.commit()
    assert await low(loom, "leases") <= await loom.sql.fetchval("select id from treadle.leases")
    assert await loom.beat("w", grace=0) == {}
    assert (
        await loom.sql.fetchval("select state from treadle.messages where message_id = $1", claim.message_id)
        == "queued"
    )


async def _sweep_leases(loom: Loom) -> int:
    await sweep(loom)
    return await low(loom, "leases")
