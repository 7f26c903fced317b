"""Costs that do not grow: low-water marks let calls skip the dead rows of lanes, leases and counters, and never a
live row."""

import json

import pytest

from tests.support.low_water import (
    DEAD,
    DRAW_LANE_IDS,
    FILL_COUNTERS,
    FILL_LANE,
    FILL_MESSAGES,
    LANE,
    buffers,
    buffers_of,
    fewest_buffers,
    fold_past,
    sweep_leases,
    sweep_past,
)
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row
from tests.support.waiting import until

pytestmark = pytest.mark.new_database

CALLS = {
    "claim": ("select * from treadle.claim('w', '{default}', 1, 60)", 150),
    "submit": ('select * from treadle.submit_many(\'[{"message": "x"}]\', max_queue_size => 1000000)', 250),
    "queue_position": ("select treadle.queue_position(message_id) from treadle.messages where state = 'queued'", 100),
    "queue_positions": (
        "select * from treadle.queue_positions(array(select message_id from treadle.messages where state = 'queued'))",
        100,
    ),
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
        # The lower of two: where autovacuum analyzes a table in between, plans are made again.
        after = {name: min([await buffers(sql_client, call) for _ in "12"]) for name, (call, _) in CALLS.items()}
        assert all(after[name] <= most for name, (_, most) in CALLS.items()), after
    assert len(await sql_client.claim(10)) == 1


UPDATES_OF_MESSAGES = """
    select n_tup_upd as all, n_tup_hot_upd as in_page
    from pg_stat_xact_user_tables where relid = 'treadle.messages'::regclass"""


async def test_all_versions_of_a_message_fit_into_its_page(sql_client: SqlClient) -> None:
    """None can be removed beside an old snapshot, nor in the transaction that wrote them. An update that leaves it
    writes to every index, and later look-ups read all entries."""
    texts = ({"message": "x" * 200, "thread_id": f"t{n % 100}"} for n in range(200))
    async with sql_client.sql.transaction():
        await sql_client.submit_many(*texts, autocommit=True)
        for _ in range(2):
            assert await sql_client.finish(*await sql_client.claim(100)) == ["completed"] * 100
        updates = await fetch_row(sql_client.sql, UPDATES_OF_MESSAGES)
    admitted = 100  # by an update that takes the message out of the index of the waiting ones
    assert updates["all"] == 2 * 200 + admitted
    assert updates["in_page"] >= 0.95 * 2 * 200, updates


READS_OF_A_THREAD = {
    "thread": "select * from treadle.thread_overview where tenant = 'default' and thread_id = 't'",
    "place": "select * from treadle.thread_place('t', 0)",
    "log": "select * from treadle.read_events(null, '{0}', 10, array(select t.id from treadle.threads t))",
}


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
        for name, call in READS_OF_A_THREAD.items():
            found[name] = await buffers(sql_client, call)
        await sql_client.finish(*await sql_client.claim(1))
        return found

    async def lower() -> dict[str, int]:
        """Of two: plans are made again after an autovacuum of a table, and after many changes in other databases."""
        first, second = await pages(), await pages()
        return {name: min(first[name], second[name]) for name in first}

    await sql_client.sql.execute(FILL_MESSAGES)  # plans as beside many messages
    await sql_client.submit_many(*({"thread_id": "t", "priority": priority} for priority in waiting))
    await work(5)
    before = await lower()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await work(400)
        after = await lower()
    if len(waiting) > 400:
        del after["submit"]  # the position that it answers counts the messages that wait before it, also dead entries
    assert {name: after[name] for name in after if after[name] > before[name] + 150} == {}, before
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")


FILL_THREADS = """
    insert into treadle.messages (tenant, message_id, thread, ord, queue, agent, priority, rank, state, hold, attempt,
            max_attempts, timeout_seconds, last_seq, created_at, run_at, started_at, completed_at, worker_id, body)
        select 'default', treadle.uuid7(), $1::bigint + n % $2::integer, 1000 + n, 'default', 'echo', 'normal', 1, $3,
            $4, 1, 3, 60, 3, now(), now(), now(), case when $4::text is null then now() end, 'fill', '"x"'
        from generate_series(1, 20000) n"""
FINISH = "select treadle.finish($1, $2, '{completed}', '{1}', $3, $3, $4, $3, '{3}', '{}', '{}', '{}', true, 3)"
SUBMIT = "select * from treadle.submit_many($1)"


def to_thread(name: str, **fields: str) -> str:
    return json.dumps([{"message": "x", "thread_id": name} | fields])


async def test_the_next_message_of_a_thread_is_not_looked_for_among_those_that_are_over(sql_client: SqlClient) -> None:
    """Beside an old snapshot the index of waiting messages grows. The planner takes that for its cost, and the index of
    all messages of the thread for a cheaper one."""
    await sql_client.submit_many(*[{"thread_id": "t", "priority": "low"}] * 4)
    thread = await sql_client.sql.fetchval("select id from treadle.threads where thread_id = 't'")
    await sql_client.sql.execute(FILL_THREADS, 10**6, 1_000, "queued", "thread")
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")
    await sql_client.sql.execute(FILL_THREADS, 10**6, 1_000, "completed", None)
    await sql_client.sql.execute(FILL_THREADS, thread, 1, "completed", None)
    await sql_client.sql.execute("vacuum (analyze, truncate false) treadle.messages")

    claim = next(claim for claim in await sql_client.claim(9) if claim.thread_id == "t")
    (waiting,) = await sql_client.submit_many({"thread_id": "t", "priority": "low"})
    lease, message_id = (claim.message_id, claim.lease), waiting["message_id"]
    assert await fewest_buffers(sql_client, FINISH, *([value] for value in (*lease, None, None))) < 300
    for priority in ("normal", "high"):  # each goes before the message with the turn
        assert await fewest_buffers(sql_client, SUBMIT, to_thread("t", priority=priority)) < 500
    for call in ("select treadle.queue_position($1)", "select * from treadle.queue_positions(array[$1::uuid])"):
        assert await fewest_buffers(sql_client, call, message_id) < 300, call
    assert await fewest_buffers(sql_client, "select * from treadle.take_incoming($1, $2)", *lease) < 300
    assert await fewest_buffers(sql_client, SUBMIT, to_thread("t", on_busy="interrupt")) < 1500
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")


@pytest.mark.parametrize("thread", [None, "t"])
async def test_messages_that_were_due_cost_nothing(sql_client: SqlClient, thread: str | None) -> None:
    """An old snapshot keeps the index entries of all messages that waited for their time."""

    async def work(rounds: int) -> None:
        for _ in range(rounds):
            await sql_client.submit_many(*[{"delay_seconds": 0.0001, "thread_id": thread}] * 20)
            await sql_client.sql.execute("select treadle.admit_due()")
            for _ in range(20 if thread else 1):
                await sql_client.finish(*await sql_client.claim(20))

    async def pages(minutes: int) -> int:
        """Of the admission of twenty messages, minutes later: the mark follows ten seconds behind."""
        await sql_client.sql.execute(f"set treadle.clock_shift = '{minutes} minutes'")
        await work(2)
        await sql_client.submit_many(*[{"delay_seconds": 0.0001, "thread_id": thread}] * 20)
        found = await buffers(sql_client, "select treadle.admit_due()")
        await sql_client.sql.execute("select treadle.admit_due()")
        return found

    reader = await sql_client.connect()
    await sql_client.sql.execute(FILL_MESSAGES)  # plans as beside many messages
    before = await pages(1)
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        await work(5 if thread else 40)
        after = await pages(5)
    assert after < before * 1.3 + 60, (before, after)
    await sql_client.sql.execute("delete from treadle.messages where worker_id = 'fill'")


async def test_a_delayed_message_of_an_open_transaction_is_admitted(sql_client: SqlClient) -> None:
    """The mark of those that are due has passed it."""
    user = await sql_client.connect()
    async with user.sql.transaction():
        message_id = await user.submit(delay_seconds=0.001)
        await sql_client.sql.execute("set treadle.clock_shift = '5 minutes'")
        await sql_client.submit(delay_seconds=0.0001)
        await sql_client.sql.execute("select treadle.admit_due(); select treadle.admit_due()")
    await sql_client.sql.execute("select treadle.sweep(60), treadle.admit_due()")
    assert await sql_client.sql.fetchval("select hold is null from treadle.messages where message_id = $1", message_id)


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
    await until(lambda: sweep_leases(sql_client), lambda mark: mark == first)
    for _ in range(2):
        assert await sql_client.heartbeat("w", grace=0) == {}
    assert (
        await sql_client.sql.fetchval("select state from treadle.messages where message_id = $1", held.message_id)
        == "queued"
    )


async def test_beside_an_old_snapshot_dead_leases_are_not_read(sql_client: SqlClient) -> None:
    """Also by plans that were made while there were few."""

    async def pages() -> list[int]:
        heartbeat = "select * from treadle.heartbeat('w', 'h', 1, '{}', 9, now(), now(), $1, $2, 2, 1000, 5)"
        claims = await sql_client.claim(5)
        held = [claim.message_id for claim in claims], [claim.lease for claim in claims]
        found = [
            await buffers(sql_client, heartbeat, *held),
            await buffers(sql_client, "select * from treadle.reap('janitor', 2, 10, 3)"),
        ]
        await sql_client.finish(*claims)
        return found

    reader = await sql_client.connect()
    await sql_client.submit_many(*[{}] * 4010)
    await sql_client.reap()
    before = await pages()
    async with reader.sql.transaction(isolation="repeatable_read", readonly=True):
        await reader.sql.fetchval("select count(*) from treadle.messages")
        lowest = await sweep_leases(sql_client)
        await sql_client.finish(*await sql_client.claim(4000))
        # The marks stay where they are beside a transaction such as that of autovacuum.
        await until(lambda: sweep_leases(sql_client), lambda mark: mark > lowest + 3000)
        after = await pages()
    assert all(after[n] < before[n] + 60 for n in range(2)), (before, after)


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
    # The lower of two: an autovacuum between the calls makes the plans again.
    assert min(await pages("c"), await pages("d")) < before * 1.5
