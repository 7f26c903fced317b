"""Claim: whose turn it is among the lanes, and what a claim passes over without waiting."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from service.db.pool import Connection
from service.leases.store import CLAIM_SQL
from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient, open_sql_client
from tests.support.sql_rows import fetch_row


@pytest.fixture
async def sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    async with open_sql_client(sql, dsn) as sql_client:
        await sql_client.limit_lock_waits()  # a claim never waits for a lock
        yield sql_client


async def submit(sql_client: SqlClient, *priorities: str) -> list[UUID]:
    return [await sql_client.submit(priority=priority) for priority in priorities]


async def taken(sql_client: SqlClient, quantity: int = 100, **arguments: bool | list[str] | str) -> list[UUID]:
    return [claim.message_id for claim in await sql_client.claim(quantity, **arguments)]  # type: ignore[arg-type]


# Order


async def test_high_before_normal_before_low_and_the_oldest_first(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, "low", "normal", "high", "low", "normal", "high")
    assert await taken(sql_client) == [ids[n] for n in (2, 5, 1, 4, 0, 3)]


async def test_another_lane_can_be_the_first_and_the_rest_keep_their_order(sql_client: SqlClient) -> None:
    high, normal, *low = await submit(sql_client, "high", "normal", "low", "low")
    assert await taken(sql_client, 3, first_lane="low") == [*low, high]
    high = await sql_client.submit(priority="high")
    assert await taken(sql_client, 1, first_lane="normal") == [normal]
    assert await taken(sql_client) == [high]


async def test_messages_that_return_go_before_new_ones_of_their_priority(sql_client: SqlClient) -> None:
    """A fan-out of low priority that wakes does not go before interactive messages."""
    begun = await submit(sql_client, "low", "normal", "low")
    claims = await sql_client.claim(3)
    new = await submit(sql_client, "low", "normal", "high")
    assert await sql_client.finish(*claims, outcome="released") == ["queued"] * 3
    assert await sql_client.sql.fetchval("select treadle.queue_position($1)", begun[2]) == 4
    assert await taken(sql_client) == [new[2], begun[1], new[1], begun[0], begun[2], new[0]]


async def test_no_more_than_asked_for(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, "normal", "high", "normal", "low")
    assert await taken(sql_client, 0) == []
    assert await taken(sql_client, 2) == [ids[1], ids[0]]
    assert await taken(sql_client, 1) == [ids[2]]
    assert await taken(sql_client, 5) == [ids[3]]
    assert await taken(sql_client, 5) == []


async def test_only_from_the_queues_asked_for_and_lane_by_lane(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "a", "queue": "qa"}, {"agent": "b", "queue": "qb"})
    low_a = await sql_client.submit(agent="a", priority="low")
    normal_a, normal_b = await sql_client.submit(agent="a"), await sql_client.submit(agent="b")
    high_b = await sql_client.submit(agent="b", priority="high")
    other = await sql_client.submit()
    assert await taken(sql_client, queues=[]) == []
    assert await taken(sql_client, queues=["unknown"]) == []
    assert await taken(sql_client, queues=["qb", "qa"]) == [high_b, normal_b, normal_a, low_a]
    assert await taken(sql_client) == [other]


async def test_a_paused_queue_keeps_its_rows_while_another_goes_on(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "a", "queue": "qa"})
    here, there = await sql_client.submit(), await sql_client.submit(agent="a")
    await sql_client.sql.execute("select treadle.pause('default')")
    assert await taken(sql_client, queues=["default", "qa"]) == [there]
    later = await sql_client.submit()
    assert await sql_client.lanes() == [[], [here, later], []]
    await sql_client.sql.execute("select treadle.pause('default', false)")
    assert await taken(sql_client, queues=["default", "qa"]) == [here, later]


async def test_each_claim_has_a_lease_of_its_own(sql_client: SqlClient) -> None:
    await submit(sql_client, *["normal"] * 5)
    claims = await sql_client.claim(5)
    assert len({claim.lease for claim in claims}) == 5


# What others hold


async def test_two_claimers_never_get_the_same_message(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, *["normal", "low"] * 60)
    workers = [await sql_client.connect() for _ in range(4)]

    async def work(worker: SqlClient, n: int) -> list[UUID]:
        got: list[UUID] = []
        empty = 0
        while empty < 3:
            claims = await worker.claim(1 + n, worker=f"w{n}", first_lane="low" if n % 2 == 0 else "high")
            got += [claim.message_id for claim in claims]
            empty = 0 if claims else empty + 1
        return got

    got = await asyncio.gather(*(work(worker, n) for n, worker in enumerate(workers)))
    assert sorted(id for ids in got for id in ids) == sorted(ids)


async def test_what_another_claim_has_taken_is_passed_over(sql_client: SqlClient) -> None:
    ids = await submit(sql_client, *["normal"] * 4)
    other = await sql_client.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    assert await taken(other, 2) == ids[:2]
    assert await taken(sql_client, 2) == ids[2:]
    await transaction.rollback()
    assert await taken(sql_client) == ids[:2]


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
async def test_a_claim_skips_locked_messages_and_the_next_one_takes_them(
    sql_client: SqlClient, lock: str, quantity: int
) -> None:
    """Also if they are at the head of the lane and the claim asks for one message: it takes the next free one."""
    held = [await sql_client.submit(thread_id=f"held{n}") for n in range(3)]
    free = await sql_client.submit(thread_id="free")
    other = await sql_client.connect()
    transaction = other.sql.transaction()
    await transaction.start()
    for message_id in held:
        await other.sql.execute(lock, message_id)
    assert await taken(sql_client, quantity) == [free]
    await transaction.rollback()
    await assert_consistent(sql_client.sql)
    assert await taken(sql_client) == held


async def test_behind_however_many_held_messages_the_next_is_found(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{"thread_id": f"held{n}"} for n in range(300)])
    free = await sql_client.submit(priority="normal")
    low = await sql_client.submit(priority="low")
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.thread_log for no key update")
        assert await taken(sql_client, 1) == [free]
        assert await taken(sql_client, 1) == [low]
        assert await taken(sql_client, 1) == []


async def test_a_message_whose_thread_is_held_is_passed_over(sql_client: SqlClient) -> None:
    """Its end would wait for the holder, and would keep a place of the worker meanwhile."""
    message_id = await sql_client.submit(thread_id="t")
    free = await sql_client.submit(thread_id="free")
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for no key update")
        assert await taken(sql_client) == [free]
    assert await taken(sql_client) == [message_id]


# Rows that are not ours, or not right

FOREIGN = [
    {"hello": "world"},
    {"message_id": "no uuid"},
    {"message_id": "0f70f4ee-1598-47e4-926d-b07c564cfe0f"},
    "text",
    [1],
    None,
]


async def test_a_foreign_row_goes_to_the_dead_letters_and_spoils_nothing(sql_client: SqlClient) -> None:
    ours = [await sql_client.submit()]
    sent = []
    for body in FOREIGN:
        foreign = await sql_client.sql.fetchval("select pgmq.send('default_normal', $1::jsonb)", json.dumps(body))
        sent.append({"reason": "foreign", "lane": "normal", "msg_id": foreign, "body": body})
        ours.append(await sql_client.submit())
    assert await taken(sql_client) == ours
    dead = [row["message"] for row in await sql_client.sql.fetch("select message from pgmq.q_default_dlq")]
    assert sorted(dead, key=lambda letter: letter["msg_id"]) == sent
    assert await sql_client.lanes() == [[], ours, []]
    assert [row[0] for row in await sql_client.sql.fetch("select reason from treadle.dead_letters")] == ["foreign"] * 6


async def test_the_dead_letters_can_be_shown_whatever_lies_among_them(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.run(outcome="rejected")
    bodies = [*FOREIGN, {"message_id": str(message_id).upper()}, {"attempts": "many"}, {"attempts": 10**30}]
    for body in bodies:
        await sql_client.sql.execute("select pgmq.send('default_dlq', $1::jsonb)", json.dumps(body))
    rows = await sql_client.sql.fetch("select * from treadle.dead_letters order by dlq_id")
    unknown = UUID("0f70f4ee-1598-47e4-926d-b07c564cfe0f")
    assert [row["message_id"] for row in rows if row["message_id"]] == [message_id, unknown]
    assert [row["attempts"] for row in rows if row["attempts"]] == [1]
    assert [row["body"] for row in rows[1:]] == bodies
    await sql_client.sql.execute("delete from pgmq.q_default_dlq where message ->> 'reason' is null")


async def test_a_stray_row_of_a_message_that_is_elsewhere_is_removed(sql_client: SqlClient) -> None:
    head, held = await sql_client.submit(thread_id="t"), await sql_client.submit(thread_id="t")
    for message_id in (head, held):
        body = json.dumps({"message_id": str(message_id), "thread_id": "t", "agent": "echo"})
        await sql_client.sql.execute("select pgmq.send('default_normal', $1::jsonb)", body)
        await sql_client.sql.execute("select pgmq.send('default_low', $1::jsonb)", body)
    assert await taken(sql_client) == [head]
    assert await sql_client.lanes() == [[], [head], []]
    assert await sql_client.lane("dlq") == []


async def test_a_stray_row_of_a_message_that_is_over_is_removed(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.run()
    await sql_client.sql.execute(
        "select pgmq.send('default_normal', $1::jsonb)", json.dumps({"message_id": str(message_id), "agent": "echo"})
    )
    assert await taken(sql_client) == []
    assert await sql_client.lanes() == [[], [], []]


async def test_foreign_rows_do_not_use_up_a_claim(sql_client: SqlClient) -> None:
    for _ in range(5):
        await sql_client.sql.execute("select pgmq.send('default_high', '{}')")
    message_id = await sql_client.submit(priority="high")
    assert await taken(sql_client, 1) == [message_id]


async def test_a_running_message_that_shows_again_is_hidden_once_more(sql_client: SqlClient) -> None:
    """Whether its worker lives is the janitor's to say."""
    message_id = await sql_client.submit()
    await sql_client.claim_one(lease_seconds=60)
    await sql_client.shift_clock(61)
    ready = await sql_client.submit()
    assert await taken(sql_client, lease_seconds=30) == [ready]  # type: ignore[arg-type]
    assert await sql_client.state(message_id) == ("processing", None)
    hidden = await sql_client.sql.fetchval(
        "select min(vt - treadle.clock()) between '20 seconds' and '30 seconds' from pgmq.q_default_normal"
    )
    assert hidden
    assert await sql_client.sql.fetchval("select count(*) from treadle.leases") == 2
    assert await taken(sql_client) == []


async def test_a_plain_pgmq_client_that_reads_hides_a_message_and_loses_nothing(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    row = await fetch_row(sql_client.sql, "select * from pgmq.read('default_normal', 30, 1)")
    assert row["message"] == {"message_id": str(message_id), "thread_id": None, "agent": "echo"}
    assert await taken(sql_client) == []
    await sql_client.shift_clock(31)
    assert await taken(sql_client) == [message_id]


async def test_a_plain_pgmq_client_that_writes_to_the_lanes_of_another_queue(sql_client: SqlClient) -> None:
    """A row in the wrong queue is a stray one, wherever its message is."""
    await sql_client.register({"agent": "a", "queue": "qa"})
    message_id = await sql_client.submit()
    await sql_client.sql.execute(
        "select pgmq.send('qa_high', $1::jsonb)", json.dumps({"message_id": str(message_id), "agent": "echo"})
    )
    assert await taken(sql_client, queues=["qa"]) == []
    assert await sql_client.lanes("qa") == [[], [], []]
    assert await taken(sql_client) == [message_id]


async def test_a_claim_counts_the_rows_that_it_passes_over(sql_client: SqlClient) -> None:
    async def claim() -> tuple[int, int]:
        """How many messages it finds, and how many rows it passes over."""
        rows = await sql_client.sql.fetch(CLAIM_SQL, "w", ["default"], 10, 60.0, "high", None, None, None)
        return len([row for row in rows if row["message_id"] is not None]), rows[0]["passed_rows"]

    for n in range(3):
        await sql_client.submit(thread_id=f"t{n}")
    user = await sql_client.connect()
    async with user.sql.transaction():
        await user.submit(thread_id="t0")
        await user.submit(thread_id="t1")
        assert await claim() == (1, 2)
        assert await claim() == (0, 2)
    assert await claim() == (2, 0)
    assert await claim() == (0, 0)
