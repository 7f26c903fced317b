"""A transaction of a user may stay open after a call: the message that runs in the thread goes on writing its log."""

import asyncio
import itertools
import json
from typing import Any

import asyncpg
import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

WAITS_FOR_LOCK = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"

CALLS = {
    "submit": "select treadle.submit('x', thread_id => 't')",
    "submit twice": "select treadle.submit('x', thread_id => 't'); select treadle.submit('x', thread_id => 't')",
    "submit an aside": "select treadle.submit('x', thread_id => 't', aside => true)",
    "submit what goes first": "select treadle.submit('x', thread_id => 't', priority => 'high')",
    "submit to a new thread as well": "select treadle.submit_many("
    """'[{"message": "x", "thread_id": "new"}, {"message": "x", "thread_id": "t"}, {"message": "x"}]')""",
    "submit and cancel": "select treadle.cancel(treadle.submit('x', thread_id => 't'))",
    "submit once": """select treadle.submit_once('k', '', '[{"message": "x", "thread_id": "t"}]')""",
    "cancel what waits": "select treadle.cancel('{waiting}')",
    "cancel a parent": "select treadle.cancel('{parent}')",
    "redrive": "select treadle.redrive('{failed}')",
    "answer": "select treadle.input('{asking}', '1')",
    "everything": "select treadle.submit('x', thread_id => 't'); select treadle.cancel('{waiting}');"
    " select treadle.redrive('{failed}'); select treadle.input('{asking}', '1');"
    " select treadle.submit('y', thread_id => 't')",
}


async def busy_thread(sql_client: SqlClient) -> tuple[dict[str, Any], Any]:
    """A thread with a message in each state; returns their ids, and the claim of the running one."""
    ids = {
        "failed": await sql_client.submit(thread_id="t", aside=True, max_attempts=1),
        "asking": await sql_client.submit(thread_id="t", aside=True),
        "parent": await sql_client.submit(),
    }
    claims = {claim.message_id: claim for claim in await sql_client.claim(10)}
    await sql_client.finish(claims[ids["failed"]], outcome="error")
    await conclude(sql_client, claims[ids["asking"]], "input", {"name": "n", "question": "?"})
    child = await sql_client.submit(thread_id="t", parent=str(ids["parent"]), aside=True, delay_seconds=9)
    await conclude(sql_client, claims[ids["parent"]], "children", {"children": [str(child)]}, [child])
    await sql_client.submit(thread_id="t")
    running = await sql_client.claim_one()
    ids["waiting"] = await sql_client.submit(thread_id="t")
    return ids, running


async def conclude(sql_client: SqlClient, claim: Any, kind: str, data: Any, children: Any = None) -> None:
    status = await sql_client.sql.fetchval(
        "select treadle.conclude(id => $1, lease => $2, outcome => $3, result => $4, error => null, traceback => null,"
        " delay => null, usage => null, first_seq => $5, event_types => '{}', event_datas => '{}', max_losses => 3,"
        " messages => null, memory => null, children => $6)",
        claim.message_id,
        claim.lease,
        kind,
        json.dumps(data),
        claim.last_seq + 1,
        children,
    )
    assert status == "queued"


async def positions(sql_client: SqlClient, thread_id: str = "t") -> list[int]:
    return [
        row["thread_pos"]
        for row in await sql_client.sql.fetch(
            "select e.thread_pos from treadle.events e join treadle.threads t on t.id = e.thread where t.thread_id = $1"
            " order by e.thread_pos",
            thread_id,
        )
    ]


async def test_an_open_transaction_stops_no_append_in_its_thread(
    sql_client: SqlClient, subtests: pytest.Subtests
) -> None:
    user = await sql_client.connect()
    for call, ending in itertools.product(CALLS, ("rollback", "commit")):
        with subtests.test(call, ending=ending):
            await append_beside(sql_client, user, CALLS[call], ending)
            await assert_consistent(sql_client.sql)
        # The next case has threads of the same names. Its claims also take messages without a thread.
        await sql_client.sql.execute("select treadle.delete_thread(t.thread_id) from treadle.threads t")


async def append_beside(sql_client: SqlClient, user: SqlClient, statement: str, ending: str) -> None:
    ids, running = await busy_thread(sql_client)
    for name, message_id in ids.items():
        statement = statement.replace("{" + name + "}", str(message_id))
    transaction = user.sql.transaction()
    await transaction.start()
    try:
        await user.sql.execute(statement)
        await sql_client.limit_lock_waits()
        assert await sql_client.append((running, 3, ["a"]), patient=False) == ["ok"]
        assert await sql_client.append((running, 4, ["b"]), patient=True) == ["ok"]
        assert not await sql_client.sql.fetchval("select exists (select from treadle.late_events)")
        before = await positions(sql_client)
        assert before == list(range(1, len(before) + 1))
    except BaseException:
        await transaction.rollback()
        raise
    finally:
        await sql_client.sql.execute("reset lock_timeout")
    await (transaction.commit() if ending == "commit" else transaction.rollback())
    after = await positions(sql_client)
    assert after == list(range(1, len(after) + 1))
    assert (len(after) > len(before)) is (ending == "commit")
    assert await sql_client.append((running, 5, ["c"])) == ["ok"]
    assert await sql_client.finish(running, first_seq=6) == ["completed"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_an_open_cancel_of_the_running_message_stops_only_its_end(sql_client: SqlClient, ending: str) -> None:
    _, running = await busy_thread(sql_client)
    user = await sql_client.connect()
    transaction = user.sql.transaction()
    await transaction.start()
    assert await user.cancel(running.message_id) == "requested"
    assert await user.cancel(running.message_id) == "requested"

    await sql_client.limit_lock_waits()
    assert await sql_client.append((running, 3, ["a"]), patient=False) == ["ok"]
    assert await sql_client.append((running, 4, ["b"]), patient=True) == ["ok"]
    assert await sql_client.heartbeat("w", running, lease_seconds=1000) == {}
    # Whether it completes is not decided yet.
    assert await sql_client.finish(running, first_seq=5, patient=False) == ["busy"]
    with pytest.raises(asyncpg.LockNotAvailableError):
        await sql_client.finish(running, first_seq=5, patient=True)

    await (transaction.commit() if ending == "commit" else transaction.rollback())
    await sql_client.sql.execute("reset lock_timeout")
    assert await sql_client.heartbeat("w", running) == ({running.message_id: "cancelled"} if ending == "commit" else {})
    assert not await sql_client.sql.fetchval("select exists (select from treadle.late_cancels)")
    assert await sql_client.finish(running, first_seq=5) == ["cancelled" if ending == "commit" else "completed"]


async def test_an_open_cancel_of_a_parent_stops_no_append_of_its_child(sql_client: SqlClient) -> None:
    parent = await sql_client.submit()
    claim = await sql_client.claim_one()
    child = await sql_client.submit(parent=str(parent))
    await conclude(sql_client, claim, "children", {"children": [str(child)]}, [child])
    running = await sql_client.claim_one()
    user = await sql_client.connect()
    async with user.sql.transaction():
        assert await user.cancel(parent) == "cancelled"
        assert await sql_client.append((running, 3, ["a"]), patient=False) == ["ok"]
    assert not await sql_client.sql.fetchval("select exists (select from treadle.parked)")
    assert await sql_client.finish(running, first_seq=4) == ["cancelled"]


async def test_a_cancel_beside_a_submit_locks_the_lease_before_the_log(sql_client: SqlClient) -> None:
    """An append has the lease and waits for the log of the thread: the commit does not wait for the append with it."""
    _, running = await busy_thread(sql_client)
    user, worker = await sql_client.connect(), await sql_client.connect()
    transaction = user.sql.transaction()
    await transaction.start()
    await user.submit(thread_id="t")
    await user.cancel(running.message_id)
    append = worker.sql.transaction()
    await append.start()
    await worker.sql.execute("select from treadle.leases where message_id = $1 for no key update", running.message_id)
    commit = asyncio.create_task(transaction.commit())
    await until(lambda: sql_client.sql.fetchval(WAITS_FOR_LOCK))
    assert await worker.append((running, 3, ["a"]), patient=True) == ["ok"]
    await append.commit()
    await commit
    assert await sql_client.finish(running, first_seq=4) == ["cancelled"]


async def test_an_event_without_a_position_is_read_by_message_and_not_by_thread(sql_client: SqlClient) -> None:
    """Only the transaction that wrote it sees it."""
    await busy_thread(sql_client)
    known = await positions(sql_client)
    async with sql_client.sql.transaction():
        message_id = await sql_client.submit(thread_id="t")
        assert await sql_client.types(message_id) == ["queued"]
    assert await positions(sql_client) == [*known, len(known) + 1]


async def test_late_events_follow_what_the_running_message_wrote_meanwhile(sql_client: SqlClient) -> None:
    ids, running = await busy_thread(sql_client)
    user = await sql_client.connect()
    async with user.sql.transaction():
        first = await user.submit(thread_id="t")
        second = await user.submit(thread_id="t")
        await sql_client.append((running, 3, ["a", "b"]))
    rows = await sql_client.sql.fetch(
        "select message_id, type from treadle.events where thread is not null order by thread_pos desc limit 4"
    )
    assert [(row["message_id"], row["type"]) for row in rows] == [
        (second, "queued"),
        (first, "queued"),
        (running.message_id, "chunk"),
        (running.message_id, "chunk"),
    ]
    assert ids["waiting"] not in (first, second)


async def test_a_transaction_may_submit_and_delete(sql_client: SqlClient) -> None:
    await busy_thread(sql_client)
    user = await sql_client.connect()
    async with user.sql.transaction():
        await user.submit(thread_id="t")
        await user.sql.execute("select treadle.delete_thread('t')")
    assert await positions(sql_client) == []


async def test_a_savepoint_takes_its_late_events_with_it(sql_client: SqlClient) -> None:
    await busy_thread(sql_client)
    known = await positions(sql_client)
    async with sql_client.sql.transaction():
        await sql_client.submit(thread_id="t")
        inner = sql_client.sql.transaction()
        await inner.start()
        await sql_client.submit(thread_id="t")
        await inner.rollback()
        await sql_client.submit(thread_id="t")
    assert await positions(sql_client) == [*known, len(known) + 1, len(known) + 2]


async def test_an_autocommitted_submit_lists_no_late_events(sql_client: SqlClient) -> None:
    await busy_thread(sql_client)
    async with sql_client.sql.transaction():
        await sql_client.submit_many({"thread_id": "t"}, autocommit=True)
        assert not await sql_client.sql.fetchval("select exists (select from treadle.late_events)")
        await sql_client.submit_many({"thread_id": "t"})
        assert await sql_client.sql.fetchval("select count(*) from treadle.late_events") == 1
