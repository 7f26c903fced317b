"""Locks: no call waits for an open transaction of a user, and an old snapshot takes no queue away."""

import asyncio

import asyncpg
import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient
from tests.support.sql_states import drain

# A person has a transaction open, and went to lunch

USERS = {
    "submit": "select treadle.submit('x', thread_id => 'a'), treadle.submit('x', thread_id => 'new')",
    "cancel of what runs": "select treadle.cancel('{running}')",
    "cancel of what waits": "select treadle.cancel('{waiting}')",
    "redrive": "select treadle.redrive('{failed}')",
    "delete": "select treadle.delete_thread('a')",
    "pause": "select treadle.pause('default')",
    "nothing but looking": "table treadle.thread_overview; table treadle.message_overview;"
    " table treadle.queue_overview; table treadle.worker_overview; table treadle.dead_letters; table treadle.events",
}


@pytest.mark.parametrize("what", USERS)
async def test_a_users_locks_in_one_thread_stop_no_other_client_or_worker(sql_client: SqlClient, what: str) -> None:
    failed = await sql_client.submit(thread_id="a", max_attempts=1)
    await sql_client.run(outcome="error")
    aside = await sql_client.submit(thread_id="a", aside=True)
    theirs = await sql_client.submit(thread_id="a")
    running = {claim.message_id: claim for claim in await sql_client.claim(10)}
    waits = await sql_client.submit(thread_id="a")
    await sql_client.submit(thread_id="a", delay_seconds=1)
    ours = [await sql_client.submit(thread_id=f"b{n}") for n in range(3)]
    running |= {claim.message_id: claim for claim in await sql_client.claim(10)}
    followers = [await sql_client.submit(thread_id=f"b{n}") for n in range(3)]
    due_too = await sql_client.submit(delay_seconds=1)
    mine = [running[id] for id in (aside, theirs)]
    other = [running[id] for id in ours]

    user = await sql_client.connect()
    transaction = user.sql.transaction()
    await transaction.start()
    await user.sql.execute(USERS[what].format(running=theirs, waiting=waits, failed=failed))

    await sql_client.limit_lock_waits()
    await sql_client.shift_clock(2)
    appended = await sql_client.append(*[(claim, 3, ["x"]) for claim in mine + other], patient=False)
    ended = 2 if what == "delete" else 0  # an open delete holds the leases of what it ends
    assert appended == ["ok"] * (2 - ended) + ["busy"] * ended + ["ok"] * 3
    assert await sql_client.append(*[(claim, 4, ["y"]) for claim in other], patient=False) == ["ok"] * 3
    assert (await sql_client.finish(*mine, *other, first_seq=5, patient=False))[2:] == ["completed"] * 3
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") >= 1
    assert await sql_client.state(due_too) == ("queued", None)
    rows = await sql_client.submit_many(
        *[{"thread_id": "a"}, {"thread_id": "b0"}, {"thread_id": "c"}, {}, {"thread_id": "new"}],
        patient=False,
        strict=False,
    )
    states = [row["state"] for row in rows]
    if what == "submit":
        assert states == ["busy", "queued", "queued", "queued", "busy"]
    elif what in ("pause", "cancel of what runs", "nothing but looking"):
        assert states == ["queued"] * 5
    else:
        assert states == ["busy", "queued", "queued", "queued", "queued"]
    if what != "pause":
        assert {*followers, rows[2]["message_id"], rows[3]["message_id"]} <= {
            c.message_id for c in await sql_client.claim(99)
        }
        assert await sql_client.cancel(followers[0]) == "requested"
    await sql_client.heartbeat("w", *mine, *other, grace=0)
    await sql_client.heartbeat("janitor")
    await sql_client.reap(worker_timeout=0)
    for chore in ("fold_counters()", "mend_lanes(null)", "purge(1, 1)"):
        await sql_client.sql.execute(f"select treadle.{chore}")
    assert await sql_client.sql.fetchval("select treadle.delete_thread('b1')") == 2
    await assert_consistent(sql_client.sql)
    await transaction.commit()
    await sql_client.sql.execute("reset lock_timeout")
    await assert_consistent(sql_client.sql)
    await drain(sql_client)


async def test_a_submit_in_an_open_transaction_delays_no_claim_of_other_threads(sql_client: SqlClient) -> None:
    """Every head of ten threads is locked by the user; with one slot free, the eleventh is found."""
    for n in range(10):
        await sql_client.submit(thread_id=f"a{n}")
    last = await sql_client.submit(thread_id="b")
    user = await sql_client.connect()
    async with user.sql.transaction():
        await user.submit_many(*[{"thread_id": f"a{n}"} for n in range(10)])
        await sql_client.sql.execute("set statement_timeout = '30s'")
        assert [claim.message_id for claim in await sql_client.claim(1)] == [last]
    await sql_client.sql.execute("reset statement_timeout")


async def test_public_functions_wait_a_limited_time_for_a_lock(sql_client: SqlClient) -> None:
    message_id, failed = (
        await sql_client.submit(thread_id="a"),
        await sql_client.submit(thread_id="a", max_attempts=1, aside=True),
    )
    (claim,) = [claim for claim in await sql_client.claim(10) if claim.message_id == failed]
    await sql_client.finish(claim, outcome="error")
    await sql_client.submit(thread_id="b")
    user = await sql_client.connect()
    async with user.sql.transaction():
        await user.sql.execute("select from treadle.threads for update; select from treadle.leases for update")
        calls = [
            (await sql_client.connect()).sql.execute(call)
            for call in (
                f"select treadle.cancel('{message_id}')",
                f"select treadle.redrive('{failed}')",
                "select treadle.delete_thread('b')",
            )
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncpg.LockNotAvailableError] * 3


# By an old snapshot


async def test_a_queue_made_by_an_old_snapshot_takes_no_other_away(sql_client: SqlClient) -> None:
    user = await sql_client.connect()
    transaction = user.sql.transaction(isolation="repeatable_read")
    await transaction.start()
    await user.sql.fetch("select")  # its snapshot is of now
    await sql_client.register({"agent": "other", "queue": "side"})
    await sql_client.submit(agent="other")
    with pytest.raises(asyncpg.SerializationError):
        await user.sql.execute("select treadle.create_queue('mine')")
    await transaction.rollback()
    await user.sql.execute("select treadle.create_queue('mine')")
    assert len(await sql_client.claim(10, queues=("side", "mine"))) == 1


async def test_where_old_snapshots_are_the_rule_two_workers_start_at_once(sql_client: SqlClient) -> None:
    name = await sql_client.sql.fetchval("select current_database()")
    await sql_client.sql.execute(f"alter database {name} set default_transaction_isolation = 'repeatable read'")
    one, two = await sql_client.connect(), await sql_client.connect()
    async with one.sql.transaction():
        await one.register({"agent": "first", "queue": "one"})
        registering = asyncio.create_task(two.register({"agent": "second", "queue": "two"}))
        await sql_client.until_blocked(two)
    with pytest.raises(asyncpg.SerializationError):  # the pool tries again on this
        await registering
    await two.register({"agent": "second", "queue": "two"})
    for agent in ("first", "second"):
        await sql_client.submit(agent=agent)
    assert len(await sql_client.claim(10, queues=("one", "two"))) == 2
