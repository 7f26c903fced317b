"""Costs that do not grow: low-water marks let calls skip the dead rows of lanes, leases and counters, and never a
live row."""

import json
from typing import Any, Literal

import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row
from tests.support.waiting import until

DEAD = 50_000
LOW = "select low from treadle.low_water where name = $1"
LANE = "q_default_normal"
FILL_LANE = f"""
    insert into pgmq.{LANE} (vt, enqueued_at, message) select now(), now(), '{{}}' from generate_series(1, {DEAD})"""
DRAW_LANE_IDS = f"""
    select max(nextval('pgmq.{LANE}_msg_id_seq')), max(nextval('pgmq.q_default_high_msg_id_seq')),
        max(nextval('pgmq.q_default_low_msg_id_seq'))
    from generate_series(1, 1500)"""
FILL_MESSAGES = """
    insert into treadle.messages (tenant, message_id, queue, agent, priority, rank, state, attempt, max_attempts,
            timeout_seconds, last_seq, created_at, run_at, started_at, completed_at, worker_id, body, result)
        select 'default', treadle.uuid7(), 'default', 'echo', 'normal', 1, 'completed', 1, 3, 60, 3, now(), now(),
            now(), now(), 'fill', '"x"', '"y"'
        from generate_series(1, 5000);
    analyze treadle.messages"""
FILL_COUNTERS = f"""
    insert into treadle.counters (tenant, queue, slot, completed)
    select 'default', 'default', '-infinity', 0 from generate_series(1, {DEAD})"""


async def sweep(sql_client: SqlClient) -> int:
    """Returns the lane's mark."""
    await sql_client.sql.execute("select treadle.sweep('infinity')")
    return await low(sql_client)


async def sweep_past(sql_client: SqlClient, lane_id: int) -> None:
    """One sweep notes the mark, a later one raises it, once all transactions that were open have ended."""
    await until(lambda: sweep(sql_client), lambda mark: mark > lane_id)


async def low(sql_client: SqlClient, name: str = LANE) -> int:
    return int(await sql_client.sql.fetchval(LOW, name))


async def fold_past(sql_client: SqlClient, counter: int) -> None:
    async def fold() -> int:
        await sql_client.sql.fetchval(f"select treadle.fold_counters({2 * DEAD})")
        return await low(sql_client, "counters")

    await until(fold, lambda mark: mark > counter)


async def buffers(sql_client: SqlClient, call: str, *args: Any) -> int:
    """The pages that a call reads, in all its statements; the call is rolled back."""
    transaction = sql_client.sql.transaction()
    await transaction.start()
    try:
        await sql_client.sql.fetch(call, *args)  # plans are made
        return await buffers_of(sql_client, call, *args)
    finally:
        await transaction.rollback()


async def buffers_of(sql_client: SqlClient, call: str, *args: Any) -> int:
    """The pages that this call reads, in all its statements."""
    (explained,) = await fetch_row(sql_client.sql, f"explain (analyze, buffers, format json) {call}", *args)
    plan = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


CALLS = {
    "claim": ("select * from treadle.claim('w', '{default}', 1, 60)", 150),
    "submit": ('select * from treadle.submit_many(\'[{"message": "x"}]\', max_queue_size => 1000000)', 250),
    "queue_position": ("select treadle.queue_position(message_id) from treadle.messages where state = 'queued'", 100),
    "queue_overview": ("select * from treadle.queue_overview", 150),
    "queued_messages": ("select * from treadle.queued_messages()", 100),
}


async def test_dead_rows_at_the_head_of_a_lane_cost_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit()
    reader = await sql_client.connect()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")  # from now on nothing can be vacuumed
        await sql_client.claim()
        await sql_client.sql.execute(FILL_LANE)
        await sql_client.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
        await sql_client.sql.execute(FILL_COUNTERS)
        await sql_client.submit()
        await sql_client.sql.execute(f"vacuum pgmq.{LANE}")
        before = {name: await buffers(sql_client, call) for name, (call, _) in CALLS.items()}
        assert all(before[name] > 4 * most for name, (_, most) in CALLS.items()), before  # so it would be without

        await sweep_past(sql_client, DEAD)
        await fold_past(sql_client, DEAD)
        after = {name: await buffers(sql_client, call) for name, (call, _) in CALLS.items()}
        assert all(after[name] <= most for name, (_, most) in CALLS.items()), after
    assert len(await sql_client.claim(10)) == 1


@pytest.mark.parametrize("newest", [False, True])
async def test_a_mark_does_not_pass_an_uncommitted_row(sql_client: SqlClient, newest: bool) -> None:
    slow = await sql_client.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    late = None if newest else await slow.submit()
    await sql_client.submit_many(*[{}] * 1500)
    assert len(await sql_client.claim(1500)) == 1500
    late = late or await slow.submit()  # if it is the newest, there is no newer transaction
    for _ in range(5):
        assert await sweep(sql_client) <= (1501 if newest else 1)
    await transaction.commit()
    assert [claim.message_id for claim in await sql_client.claim(10)] == [late]
    await sweep_past(sql_client, 1500)


OTHERS: dict[str, tuple[Literal["read_committed", "repeatable_read"], str]] = {
    "an old snapshot": ("repeatable_read", "select count(*) from treadle.messages"),
    "an open transaction that writes": ("read_committed", "create table theirs ()"),
    "an open transaction that submits": ("read_committed", "select treadle.submit('x'::text, agent => 'echo')"),
}


@pytest.mark.parametrize("other", OTHERS)
async def test_transactions_of_others_stop_no_mark(sql_client: SqlClient, other: str) -> None:
    isolation, statement = OTHERS[other]
    user = await sql_client.connect()
    async with user.sql.transaction(isolation=isolation):
        await user.sql.execute(statement)
        await sql_client.sql.execute(FILL_LANE)
        await sql_client.sql.execute(FILL_COUNTERS)
        await sql_client.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
        await sql_client.submit()
        await sweep_past(sql_client, DEAD)
        await fold_past(sql_client, DEAD)
    await sql_client.sql.execute("select treadle.sweep(), treadle.fold_counters()")
    assert len(await sql_client.claim(10)) == (2 if "submits" in other else 1)
    await assert_consistent(sql_client.sql)


async def test_late_rows_and_counts_come_back_behind_the_mark_that_passed_them(sql_client: SqlClient) -> None:
    """Of two transactions that stay open, the one that ends first is not held back by the other."""

    async def queued() -> int:
        return int(await sql_client.sql.fetchval("select sum(queued) from treadle.queue_counts"))

    slow, slower = await sql_client.connect(), await sql_client.connect()
    transactions = [user.sql.transaction() for user in (slow, slower)]
    for transaction in transactions:
        await transaction.start()
    late = [await user.submit(thread_id=f"t{n}") for n, user in enumerate((slow, slower))]
    await sql_client.sql.execute(FILL_LANE)
    await sql_client.sql.execute(FILL_COUNTERS)
    await sql_client.sql.execute(f"delete from pgmq.{LANE} where message = '{{}}'")
    await sweep_past(sql_client, DEAD)
    await fold_past(sql_client, DEAD)
    for transaction, message_id in zip(transactions, late, strict=True):
        await transaction.commit()
        assert await sql_client.claim(10) == []
        queues = await sql_client.sql.fetchval("select queues from treadle.sweep()")
        assert queues == ["default"]
        await sql_client.sql.execute("select treadle.fold_counters()")
        assert await queued() == 1
        assert [claim.message_id for claim in await sql_client.claim(10)] == [message_id]
        await assert_consistent(sql_client.sql)
    assert await sql_client.sql.fetchval("select count(*) from treadle.low_water where passed <> '{}'") == 0


async def test_a_row_that_becomes_visible_again_below_its_mark_comes_back(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1500)
    hidden = await sql_client.sql.fetchval(f"select min(msg_id) from pgmq.{LANE}")
    await sql_client.sql.execute("select from pgmq.set_vt('default_normal', $1::bigint, 100)", hidden)
    await sql_client.claim(1499)
    await sweep_past(sql_client, hidden + 1400)
    assert await sql_client.claim(1) == []
    await sql_client.shift_clock(101)
    mark = await low(sql_client)
    assert await sql_client.sql.fetchval("select queues from treadle.sweep(120)") == ["default"]
    assert await low(sql_client) >= mark
    assert len(await sql_client.claim(1)) == 1


async def test_a_foreign_row_that_was_sent_with_a_delay_goes_to_the_dead_letters(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select pgmq.send('default_normal', '{}', 100)")
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.claim(1500)
    await sweep_past(sql_client, 1400)
    await sql_client.shift_clock(101)
    await sql_client.sql.execute("select treadle.sweep(120)")
    assert await sql_client.sql.fetchval("select reason from treadle.dead_letters") == "foreign"


async def test_the_mark_of_returned_messages_follows_too(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.finish(*await sql_client.claim(1500), outcome="released")
    await sql_client.claim(1499)
    (left,) = await sql_client.sql.fetch(f"select msg_id from pgmq.{LANE} where vt = enqueued_at")

    async def returned() -> int:
        await sweep(sql_client)
        return await low(sql_client, f"{LANE} returned")

    await until(returned, lambda mark: mark == left["msg_id"])
    assert len(await sql_client.claim(10)) == 1


async def test_a_mark_is_not_written_for_a_few_ids(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 20)
    await sql_client.claim(20)
    for _ in range(3):
        assert await sweep(sql_client) == 0


async def test_counters_stay_exact_past_a_transaction_that_commits_late(sql_client: SqlClient) -> None:
    async def queued() -> int:
        return int(await sql_client.sql.fetchval("select sum(queued) from treadle.queue_counts"))

    await sql_client.sql.execute(
        "insert into treadle.counters (tenant, queue, slot)"
        " select 'default', 'default', now() from generate_series(1, 2000)"
    )
    slow = await sql_client.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    await slow.submit_many({}, {})  # there is no newer transaction
    for _ in range(3):
        await sql_client.sql.fetchval("select treadle.fold_counters()")
        assert await queued() == 0
    await transaction.commit()
    assert await queued() == 2
    await fold_past(sql_client, 1000)
    assert await queued() == 2


async def test_a_mark_from_another_server_is_replaced(sql_client: SqlClient) -> None:
    """After a dump and restore a mark does not wait for a transaction of the old server."""
    await sql_client.sql.execute(
        f"update treadle.low_water set next_low = 7, awaited = '{{99/99}}' where name = '{LANE}'"
    )
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.claim(1500)
    await sweep_past(sql_client, 1400)


@pytest.mark.parametrize("waiting", [["normal"] * 20, ["normal", "high", "low"] * 150])
async def test_dead_versions_of_a_busy_thread_cost_nothing(sql_client: SqlClient, waiting: list[str]) -> None:
    """An old snapshot keeps every version of the thread's rows and every index entry of its earlier messages."""
    reader = await sql_client.connect()

    async def work(rounds: int) -> None:
        for _ in range(rounds):
            if len(waiting) < rounds:
                await sql_client.submit(thread_id="t")
            (claim,) = await sql_client.claim()
            assert await sql_client.finish(claim, chunks=["a"]) == ["completed"]

    async def pages() -> dict[str, int]:
        """Of a submit, a claim, an append and a finish; their plans are made before."""
        drawn = await sql_client.sql.fetchval(DRAW_LANE_IDS)  # so that the lane's mark rises
        await work(3)
        await sweep_past(sql_client, drawn - 1)
        found = {}
        await sql_client.sql.execute("begin")
        call = 'select * from treadle.submit_many(\'[{"message": "x", "thread_id": "t"}]\')'
        found["submit"] = await buffers_of(sql_client, call)
        found["claim"] = await buffers_of(sql_client, "select * from treadle.claim('w', '{default}', 9, 60)")
        (message_id, lease) = await fetch_row(
            sql_client.sql, "select message_id, lease from treadle.leases where thread is not null"
        )
        call = "select treadle.append($1, $2, '{3}', '{1}', '{chunk}', '{1}', true)"
        found["append"] = await buffers_of(sql_client, call, [message_id], [lease])
        call = "select treadle.finish($1, $2, '{completed}', '{1}', $3, $3, $4, $3, '{4}', '{}', '{}', '{}', true, 3)"
        found["finish"] = await buffers_of(sql_client, call, [message_id], [lease], [None], [None])
        await sql_client.sql.execute("rollback")
        await sql_client.finish(*await sql_client.claim(1))
        return found

    await sql_client.sql.execute(FILL_MESSAGES)  # plans as beside many messages
    await sql_client.submit_many(*({"thread_id": "t", "priority": priority} for priority in waiting))
    await work(5)
    before = await pages()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await work(400)
        after = await pages()
    if len(waiting) > 400:
        del after["submit"]  # the position that it answers counts the messages that wait before it, also dead entries
    assert {name: after[name] for name in after if after[name] > before[name] + 150} == {}, before
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")


async def test_vacuum_health_names_the_oldest_snapshot(sql_client: SqlClient) -> None:
    reader = await sql_client.connect()
    before = await fetch_row(sql_client.sql, "select * from treadle.vacuum_health()")
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        pid = await reader.sql.fetchval("select pg_backend_pid()")
        health = await fetch_row(sql_client.sql, "select * from treadle.vacuum_health()")
    assert str(pid) in health["holder"]
    assert health["snapshot_seconds"] >= 0
    assert before["holder"] is None or str(pid) not in before["holder"]


async def test_dead_lease_rows_are_not_read(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1500)
    await sql_client.finish(*await sql_client.claim(1500))
    await sql_client.submit()
    (held,) = await sql_client.claim(1)
    first = await sql_client.sql.fetchval("select id from treadle.leases")
    await until(lambda: _sweep_leases(sql_client), lambda mark: mark == first)
    for _ in range(2):
        assert await sql_client.heartbeat("w", grace=0) == {}
    assert (
        await sql_client.sql.fetchval("select state from treadle.messages where message_id = $1", held.message_id)
        == "queued"
    )


async def test_no_mark_passes_an_uncommitted_claim(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 1501)
    await sql_client.finish(*await sql_client.claim(1500))
    slow = await sql_client.connect()
    transaction = slow.sql.transaction()
    await transaction.start()
    (claim,) = await slow.claim(1)  # there is no newer transaction
    for _ in range(3):
        await sweep(sql_client)
    await transaction.commit()
    assert await low(sql_client, "leases") <= await sql_client.sql.fetchval("select id from treadle.leases")
    for _ in range(2):
        assert await sql_client.heartbeat("w", grace=0) == {}
    assert (
        await sql_client.sql.fetchval("select state from treadle.messages where message_id = $1", claim.message_id)
        == "queued"
    )


async def _sweep_leases(sql_client: SqlClient) -> int:
    await sweep(sql_client)
    return await low(sql_client, "leases")


async def test_a_batch_to_new_threads_reads_no_more_beside_many_messages(sql_client: SqlClient) -> None:
    """Its plans are made beside few."""

    async def pages(name: str) -> int:
        batch = json.dumps([{"message": "x", "thread_id": f"{name}{n}"} for n in range(50)])
        await sql_client.sql.execute("begin")
        found = await buffers_of(sql_client, "select * from treadle.submit_many($1, autocommit => true)", batch)
        await sql_client.sql.execute("rollback")
        return found

    for _ in range(3):
        await sql_client.submit(thread_id="t")
    before = await pages("a")
    await sql_client.submit_many(*({"thread_id": f"b{n}"} for n in range(500)))
    assert await pages("c") < before * 1.5
