"""Claim: whose turn it is among the lanes, and what a claim passes over without waiting."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from service.db.pool import Connection
from tests.support.invariants import assert_consistent
from tests.support.sql_client import Loom, weaving


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator[Loom]:
    async with weaving(sql, dsn) as loom:
        await sql.execute("set lock_timeout = '1ms'")  # a claim waits for nobody
        yield loom


async def submit(loom: Loom, *priorities: str) -> list[UUID]:
    return [await loom.submit(priority=priority) for priority in priorities]


async def taken(loom: Loom, quantity: int = 100, **arguments: bool | list[str] | str) -> list[UUID]:
    return [claim.message_id for claim in await loom.claim(quantity, **arguments)]  # type: ignore[arg-type]


# Order


async def test_high_before_normal_before_low_and_the_oldest_first(loom: Loom) -> None:
    ids = await submit(loom, "low", "normal", "high", "low", "normal", "high")
    assert await taken(loom) == [ids[n] for n in (2, 5, 1, 4, 0, 3)]


async def test_in_reverse_the_low_lane_comes_first(loom: Loom) -> None:
    ids = await submit(loom, "high", "normal", "low", "low")
    assert await taken(loom, 3, reverse=True) == [ids[2], ids[3], ids[1]]
    assert await taken(loom) == [ids[0]]


async def test_no_more_than_asked_for(loom: Loom) -> None:
    ids = await submit(loom, "normal", "high", "normal", "low")
    assert await taken(loom, 0) == []
    assert await taken(loom, 2) == [ids[1], ids[0]]
    assert await taken(loom, 1) == [ids[2]]
    assert await taken(loom, 5) == [ids[3]]
    assert await taken(loom, 5) == []


async def test_only_from_the_queues_asked_for_and_lane_by_lane(loom: Loom) -> None:
    await loom.register({"agent": "a", "queue": "qa"}, {"agent": "b", "queue": "qb"})
    low_a = await loom.submit(agent="a", priority="low")
    normal_a, normal_b = await loom.submit(agent="a"), await loom.submit(agent="b")
    high_b = await loom.submit(agent="b", priority="high")
    other = await loom.submit()
    assert await taken(loom, queues=[]) == []
    assert await taken(loom, queues=["unknown"]) == []
    assert await taken(loom, queues=["qb", "qa"]) == [high_b, normal_b, normal_a, low_a]
    assert await taken(loom) == [other]


async def test_a_paused_queue_keeps_its_rows_while_another_goes_on(loom: Loom) -> None:
    await loom.register({"agent": "a", "queue": "qa"})
    here, there = await loom.submit(), await loom.submit(agent="a")
    await loom.sql.execute("select treadle.pause('default')")
    assert await taken(loom, queues=["default", "qa"]) == [there]
    later = await loom.submit()
    assert await loom.lanes() == [[], [here, later], []]
    await loom.sql.execute("select treadle.pause('default', false)")
    assert await taken(loom, queues=["default", "qa"]) == [here, later]


async def test_each_claim_has_a_lease_of_its_own(loom: Loom) -> None:
    await submit(loom, *["normal"] * 5)
    claims = await loom.claim(5)
    assert len({claim.lease for claim in claims}) == 5


# What others hold


async def test_two_claimers_never_get_the_same_message(loom: Loom) -> None:
    ids = await submit(loom, *["normal", "low"] * 60)
    workers = [await loom.connect() for _ in range(4)]

    async def work(worker: Loom, n: int) -> list[UUID]:
        got: list[UUID] = []
        empty = 0
        while empty < 3:
            claims = await worker.claim(1 + n, worker=f"w{n}", reverse=n % 2 == 0)
            got += [claim.message_id for claim in claims]
            empty = 0 if claims else empty + 1
        return got

    got = await asyncio.gather(*(work(worker, n) for n, worker in enumerate(workers)))
    assert sorted(id for ids in got for id in ids) == sorted(ids)


async def test_what_another_claim_has_taken_is_passed_over(loom: Loom) -> None:
    ids = await submit(loom, *["normal"] * 4)
    other = await loom.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    assert await taken(other, 2) == ids[:2]
    assert await taken(loom, 2) == ids[2:]
    await transaction.rollback()
    assert await taken(loom) == ids[:2]


@pytest.mark.parametrize(
    "lock",
    [
        "select from treadle.messages where message_id = $1 for no key update",
        "select from treadle.thread_log where thread ="
        " (select thread from treadle.messages where message_id = $1) for no key update",
        "select from pgmq.q_default_normal where (message ->> 'message_id')::uuid = $1 for update",
        "select treadle.cancel($1)",
    ],
)
@pytest.mark.parametrize("quantity", [1, 10])
async def test_what_somebody_holds_is_passed_over_and_comes_next_time(loom: Loom, lock: str, quantity: int) -> None:
    """Also where it lies at the head of the lane and one message is wanted: the next one is taken instead."""
    held = [await loom.submit(thread_id=f"held{n}") for n in range(3)]
    free = await loom.submit(thread_id="free")
    other = await loom.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    for message_id in held:
        await other.sql.execute(lock, message_id)
    assert await taken(loom, quantity) == [free]
    await transaction.rollback()
    await assert_consistent(loom.sql)
    assert await taken(loom) == held


async def test_behind_however_many_held_messages_the_next_is_found(loom: Loom) -> None:
    await loom.submit_many(*[{"thread_id": f"held{n}"} for n in range(300)])
    free = await loom.submit(priority="normal")
    low = await loom.submit(priority="low")
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.thread_log for no key update")
        assert await taken(loom, 1) == [free]
        assert await taken(loom, 1) == [low]
        assert await taken(loom, 1) == []


async def test_a_held_thread_row_is_no_obstacle(loom: Loom) -> None:
    """A claim needs the thread's log, not the thread: a submit under way holds both, a finish of a neighbour too."""
    message_id = await loom.submit(thread_id="t")
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for update")
        assert await taken(loom) == [message_id]


# Rows that are not ours, or not right

FOREIGN = [
    {"hello": "world"},
    {"message_id": "no uuid"},
    {"message_id": "0f70f4ee-1598-47e4-926d-b07c564cfe0f"},
    "text",
    [1],
    None,
]


async def test_a_foreign_row_goes_to_the_dead_letters_and_spoils_nothing(loom: Loom) -> None:
    ours = [await loom.submit()]
    sent = []
    for body in FOREIGN:
        foreign = await loom.sql.fetchval("select pgmq.send('default_normal', $1::jsonb)", json.dumps(body))
        sent.append({"reason": "foreign", "lane": "normal", "msg_id": foreign, "body": body})
        ours.append(await loom.submit())
    assert await taken(loom) == ours
    dead = [row["message"] for row in await loom.sql.fetch("select message from pgmq.q_default_dlq")]
    assert sorted(dead, key=lambda letter: letter["msg_id"]) == sent
    assert await loom.lanes() == [[], ours, []]
    assert [row[0] for row in await loom.sql.fetch("select reason from treadle.dead_letters")] == ["foreign"] * 6


async def test_the_dead_letters_can_be_shown_whatever_lies_among_them(loom: Loom) -> None:
    message_id = await loom.submit()
    await loom.run(outcome="rejected")
    bodies = [*FOREIGN, {"message_id": str(message_id).upper()}, {"attempts": "many"}, {"attempts": 10**30}]
    for body in bodies:
        await loom.sql.execute("select pgmq.send('default_dlq', $1::jsonb)", json.dumps(body))
    rows = await loom.sql.fetch("select * from treadle.dead_letters order by dlq_id")
    unknown = UUID("0f70f4ee-1598-47e4-926d-b07c564cfe0f")
    assert [row["message_id"] for row in rows if row["message_id"]] == [message_id, unknown]
    assert [row["attempts"] for row in rows if row["attempts"]] == [1]
    assert [row["body"] for row in rows[1:]] == bodies
    await loom.sql.execute("delete from pgmq.q_default_dlq where message ->> 'reason' is null")


async def test_a_stray_row_of_a_message_that_is_elsewhere_is_removed(loom: Loom) -> None:
    head, held = await loom.submit(thread_id="t"), await loom.submit(thread_id="t")
    for message_id in (head, held):
        body = json.dumps({"message_id": str(message_id), "thread_id": "t", "agent": "echo"})
        await loom.sql.execute("select pgmq.send('default_normal', $1::jsonb)", body)
        await loom.sql.execute("select pgmq.send('default_low', $1::jsonb)", body)
    assert await taken(loom) == [head]
    assert await loom.lanes() == [[], [head], []]
    assert await loom.lane("dlq") == []


async def test_a_stray_row_of_a_message_that_is_over_is_removed(loom: Loom) -> None:
    message_id = await loom.submit()
    await loom.run()
    await loom.sql.execute(
        "select pgmq.send('default_normal', $1::jsonb)", json.dumps({"message_id": str(message_id), "agent": "echo"})
    )
    assert await taken(loom) == []
    assert await loom.lanes() == [[], [], []]


async def test_foreign_rows_do_not_use_up_a_claim(loom: Loom) -> None:
    for _ in range(5):
        await loom.sql.execute("select pgmq.send('default_high', '{}')")
    message_id = await loom.submit(priority="high")
    assert await taken(loom, 1) == [message_id]


async def test_a_running_message_that_shows_again_is_hidden_once_more(loom: Loom) -> None:
    """Whether its worker lives is the janitor's to say."""
    message_id = await loom.submit()
    await loom.claim_one(lease_seconds=60)
    await loom.shift(61)
    ready = await loom.submit()
    assert await taken(loom, lease_seconds=30) == [ready]  # type: ignore[arg-type]
    assert await loom.state(message_id) == ("processing", None)
    hidden = await loom.sql.fetchval(
        "select min(vt - treadle.clock()) between '20 seconds' and '30 seconds' from pgmq.q_default_normal"
    )
    assert hidden
    assert await loom.sql.fetchval("select count(*) from treadle.leases") == 2
    assert await taken(loom) == []


async def test_a_plain_pgmq_client_that_reads_hides_a_message_and_loses_nothing(loom: Loom) -> None:
    message_id = await loom.submit()
    row = await loom.sql.fetchrow("select * from pgmq.read('default_normal', 30, 1)")
    assert row["message"] == {"message_id": str(message_id), "thread_id": None, "agent": "echo"}
    assert await taken(loom) == []
    await loom.shift(31)
    assert await taken(loom) == [message_id]


async def test_a_plain_pgmq_client_that_writes_to_the_lanes_of_another_queue(loom: Loom) -> None:
    """A row in the wrong queue is a stray one, wherever its message is."""
    await loom.register({"agent": "a", "queue": "qa"})
    message_id = await loom.submit()
    await loom.sql.execute(
        "select pgmq.send('qa_high', $1::jsonb)", json.dumps({"message_id": str(message_id), "agent": "echo"})
    )
    assert await taken(loom, queues=["qa"]) == []
    assert await loom.lanes("qa") == [[], [], []]
    assert await taken(loom) == [message_id]
