"""Sending and parking in SQL: under the lease, in one transaction, in the order of locks; and how the parked go on."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service.db.pool import Connection
from service.leases.model import Claim
from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient, decode_jsonb
from tests.support.sql_rows import fetch_row


@pytest.fixture
async def sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    async with contextlib.AsyncExitStack() as stack:
        await decode_jsonb(sql)
        sql_client = SqlClient(sql, dsn, stack)
        await sql_client.register()
        yield sql_client


async def new_id(sql_client: SqlClient) -> UUID:
    return UUID(str(await sql_client.sql.fetchval("select treadle.uuid7()")))


def letters(claim: Claim, *ids: UUID, **fields: Any) -> str:
    return json.dumps(
        [{"message_id": str(i), "message": "hello", "parent": str(claim.message_id), **fields} for i in ids]
    )


async def send(
    sql_client: SqlClient, claim: Claim, *ids: UUID, first_seq: int | None = None, **fields: Any
) -> tuple[str, bool]:
    """Append a step that sends messages."""
    row = await fetch_row(
        sql_client.sql,
        "select * from treadle.append_and_send($1, $2, $3, '{step}', $4, $5)",
        claim.message_id,
        claim.lease,
        claim.last_seq + 1 if first_seq is None else first_seq,
        ['{"name": "s", "result": 1}'],
        letters(claim, *ids, **fields),
    )
    return row["status"], row["cancel_requested"]


async def conclude(
    sql_client: SqlClient,
    claim: Claim,
    outcome: str = "completed",
    *,
    sends: str | None = None,
    state: str | None = None,
    children: list[UUID] | None = None,
    first_seq: int | None = None,
) -> str:
    return str(
        await sql_client.sql.fetchval(
            "select treadle.conclude($1, $2, $3, $4, null, null, null, null, $5, '{}', '{}', 3, $6, $7, $8)",
            claim.message_id,
            claim.lease,
            outcome,
            json.dumps({} if outcome in ("children", "input") else "answer"),
            claim.last_seq + 1 if first_seq is None else first_seq,
            sends,
            state,
            children,
        )
    )


async def count(sql_client: SqlClient) -> int:
    return int(await sql_client.sql.fetchval("select count(*) from treadle.messages"))


async def tend(sql_client: SqlClient, *ids: UUID) -> int:
    return int(await sql_client.sql.fetchval("select admitted from treadle.tend_parents($1)", list(ids) or None))


PLACES = pytest.mark.parametrize("target", [None, "own", "new", "old"])


@PLACES
async def test_a_step_and_what_it_sends(sql_client: SqlClient, target: str | None) -> None:
    await sql_client.submit(thread_id="old")
    await sql_client.run()
    await sql_client.submit(thread_id="own")
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    place: dict[str, Any] = {"thread_id": target} if target else {}
    for _ in range(2):  # the second time its answer was lost
        assert await send(sql_client, claim, child, **place) == ("ok", False)
    assert await sql_client.types(claim.message_id) == ["queued", "started", "step"]
    assert await sql_client.state(child) == ("queued", "thread" if target == "own" else None)
    assert (await sql_client.message(child))["parent"] == claim.message_id
    assert await count(sql_client) == 3
    await assert_consistent(sql_client.sql)


async def test_an_attempt_that_lost_its_lease_sends_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit()
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    await sql_client.finish(claim, outcome="released")
    before = await sql_client.all_rows()
    assert await send(sql_client, claim, child, thread_id="new") == ("lost", False)
    assert await conclude(sql_client, claim, sends=letters(claim, child, thread_id="new"), state='{"a": 1}') == "lost"
    assert await conclude(sql_client, claim, "children", sends=letters(claim, child), children=[child]) == "lost"
    assert await sql_client.all_rows() == before


async def test_a_cancelled_message_sends_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    assert await sql_client.cancel(claim.message_id) == "requested"
    assert await send(sql_client, claim, child, thread_id="new") == ("ok", True)
    assert (
        await conclude(
            sql_client, claim, "children", sends=letters(claim, child), children=[child], first_seq=claim.last_seq + 2
        )
        == "cancelled"
    )
    assert (await count(sql_client), await sql_client.sql.fetchval("select count(*) from treadle.threads")) == (1, 1)
    await assert_consistent(sql_client.sql)


async def test_events_that_are_missing_send_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit()
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    before = await sql_client.all_rows()
    assert await send(sql_client, claim, child, thread_id="new", first_seq=9) == ("gap", False)
    assert await conclude(sql_client, claim, sends=letters(claim, child, thread_id="new"), first_seq=9) == "gap"
    assert await sql_client.all_rows() == before


async def test_a_refused_message_undoes_the_end(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError, match="There is no agent 'nobody'"):
        await conclude(sql_client, claim, sends=letters(claim, child, agent="nobody", thread_id="new"))
    assert await sql_client.all_rows() == before
    assert await conclude(sql_client, claim) == "completed"


async def test_a_fan_out_that_wakes_goes_before_its_lane_and_after_interactive_messages(sql_client: SqlClient) -> None:
    await sql_client.submit(priority="low")
    parent, child = await sql_client.claim_one(), await new_id(sql_client)
    await conclude(sql_client, parent, "children", sends=letters(parent, child, priority="low"), children=[child])
    running = await sql_client.claim_one()
    low, normal, high = [await sql_client.submit(priority=priority) for priority in ("low", "normal", "high")]
    await sql_client.finish(running)
    assert await tend(sql_client, parent.message_id) == 1
    assert [claim.message_id for claim in await sql_client.claim(10)] == [high, normal, parent.message_id, low]


async def test_a_parked_message_goes_on_first_when_the_last_child_is_over(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    one, two = await new_id(sql_client), await new_id(sql_client)
    assert (
        await conclude(sql_client, claim, "children", sends=letters(claim, one, two), children=[one, two]) == "queued"
    )
    assert await sql_client.state(claim.message_id) == ("queued", "children")
    assert (await sql_client.thread("t"))["turn"] == claim.message_id
    await assert_consistent(sql_client.sql)
    (first,) = await sql_client.claim(1)
    await sql_client.finish(first)
    assert await tend(sql_client) == 0
    (second,) = await sql_client.claim(1)
    assert await tend(sql_client, claim.message_id) == 0
    await sql_client.finish(second, outcome="rejected")
    await sql_client.submit(priority="high")
    assert await tend(sql_client) == 1
    assert await tend(sql_client) == 0
    await assert_consistent(sql_client.sql)
    claims = await sql_client.claim(2)
    assert {c.message_id for c in claims} >= {claim.message_id}
    again = next(c for c in claims if c.message_id == claim.message_id)
    assert (again.attempt, again.failures, again.losses) == (2, 0, 0)
    assert await sql_client.types(claim.message_id) == ["queued", "started", "parked", "started"]
    assert await conclude(sql_client, again, state='{"a": 1}') == "completed"
    assert (await sql_client.thread("t"))["memory"] == {"a": 1}
    await assert_consistent(sql_client.sql)


async def test_children_that_are_gone_are_not_waited_for(sql_client: SqlClient) -> None:
    await sql_client.submit()
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    await conclude(sql_client, claim, "children", sends=letters(claim, child, thread_id="child"), children=[child])
    await sql_client.sql.execute("select treadle.delete_thread('child')")
    assert await tend(sql_client) == 1
    await assert_consistent(sql_client.sql)


async def test_the_tending_passes_over_what_others_hold(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="a")
    await sql_client.submit(thread_id="b")
    for claim in await sql_client.claim(2):
        await conclude(sql_client, claim, "children", children=[uuid4()])
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 'a' for update")
        assert await tend(sql_client) == 1
    assert await tend(sql_client) == 1
    await assert_consistent(sql_client.sql)


async def test_cancelling_a_parent_cancels_a_tree(sql_client: SqlClient) -> None:
    """Of those that wait, and those that run; what another transaction holds is cancelled later."""
    await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    ids = [await new_id(sql_client) for _ in range(4)]
    waits, runs, parked, held = ids
    sends = json.dumps(
        json.loads(letters(claim, waits, delay_seconds=60))
        + json.loads(letters(claim, runs, parked, priority="high"))
        + json.loads(letters(claim, held, delay_seconds=60, thread_id="held"))
    )
    await conclude(sql_client, claim, "children", sends=sends, children=ids)
    for child in await sql_client.claim(2):
        if child.message_id == parked:
            grandchild = await new_id(sql_client)
            letter = letters(child, grandchild, delay_seconds=60)
            await conclude(sql_client, child, "children", sends=letter, children=[grandchild])
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 'held' for update")
        assert await sql_client.cancel(claim.message_id) == "cancelled"
        assert await sql_client.state(held) == ("queued", "delay")
    assert [await sql_client.state(i) for i in (waits, runs)] == [("cancelled", None), ("processing", None)]
    assert await sql_client.sql.fetchval("select cancel_requested from treadle.leases where message_id = $1", runs)
    for _ in range(2):
        await tend(sql_client)
    assert [(await sql_client.state(i))[0] for i in (held, parked, grandchild)] == ["cancelled"] * 3
    assert await sql_client.sql.fetchval("select count(*) from treadle.parked") == 0
    await assert_consistent(sql_client.sql)


async def test_a_crowd_that_sends_to_each_other_meets_no_deadlock(sql_client: SqlClient) -> None:
    """Parents of some threads send to the same threads, in any order, while others finish, submit and cancel there."""
    names = [f"t{n}" for n in range(4)]
    for name in names:
        await sql_client.submit(thread_id=name)
    sql_clients = [await sql_client.connect() for _ in range(4)]

    async def parent(ours: SqlClient, n: int) -> None:
        for turn in range(15):
            for claim in await ours.claim(1, worker=f"w{n}"):
                targets = names[n:] + names[:n]
                sends = json.dumps(
                    [json.loads(letters(claim, await new_id(ours), thread_id=t))[0] for t in targets[:2]]
                )
                while True:
                    try:
                        if turn % 3:
                            await conclude(ours, claim, sends=sends)
                        else:
                            ids = [UUID(one["message_id"]) for one in json.loads(sends)]
                            await conclude(ours, claim, "children", sends=sends, children=ids[1:])
                        break
                    except asyncpg.LockNotAvailableError:
                        continue
            await tend(ours)

    await asyncio.gather(*(parent(ours, n) for n, ours in enumerate(sql_clients)))
    await tend(sql_client)
    await assert_consistent(sql_client.sql)


async def test_input_is_refused_where_none_is_asked(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(thread_id="t")
    for state, code in (("queued", "TR409"), ("processing", "TR409")):
        with pytest.raises(asyncpg.PostgresError, match=f"does not wait for input: it is {state}") as refused:
            await sql_client.sql.execute("select treadle.input($1, '1')", message_id)
        assert refused.value.sqlstate == code
        if state == "queued":
            claim = await sql_client.claim_one()
    with pytest.raises(asyncpg.PostgresError, match="There is no message"):
        await sql_client.sql.execute("select treadle.input($1, '1')", uuid4())
    assert await conclude(sql_client, claim, "input") == "queued"
    with pytest.raises(asyncpg.PostgresError, match="input must be given"):
        await sql_client.sql.execute("select treadle.input($1, null)", message_id)
    assert await sql_client.cancel(message_id) == "cancelled"
    await assert_consistent(sql_client.sql)


ENDS = ("cancelled", "rejected", "failed", "lost", "backoff and cancelled", "deleted", "completed")


@pytest.mark.parametrize("how", ENDS)
async def test_a_parent_that_ends_without_a_result_takes_its_children_along(how: str, sql_client: SqlClient) -> None:
    """Those that it sent with a step and does not wait for yet: one waits, one runs, one has children of its own."""
    await sql_client.submit(thread_id="t", max_attempts=1 if how == "failed" else 3)
    claim = await sql_client.claim_one()
    waits, runs, parked = [await new_id(sql_client) for _ in range(3)]
    await send(sql_client, claim, waits, delay_seconds=60, thread_id="other")
    await send(sql_client, claim, runs, priority="high")
    await send(sql_client, claim, parked, priority="high")
    grandchild = await new_id(sql_client)
    for child in await sql_client.claim(2):
        if child.message_id == parked:
            await send(sql_client, child, grandchild, delay_seconds=60)
            await conclude(sql_client, child, "children", children=[grandchild])
    match how:
        case "cancelled":
            await sql_client.cancel(claim.message_id)
            await sql_client.finish(claim)
        case "rejected" | "completed":
            await sql_client.finish(claim, outcome=how)
        case "failed":
            await sql_client.finish(claim, outcome="error", delay=0)
        case "lost":
            await sql_client.finish(claim, outcome="lost", max_losses=1)
        case "backoff and cancelled":
            await sql_client.finish(claim, outcome="error", delay=60)
            await sql_client.cancel(claim.message_id)
        case "deleted":
            await sql_client.sql.execute("select treadle.delete_thread('t')")
    for _ in range(2):
        await tend(sql_client)
    states = [(await sql_client.state(i))[0] for i in (waits, parked, grandchild)]
    requested = await sql_client.sql.fetchval("select cancel_requested from treadle.leases where message_id = $1", runs)
    if how == "completed":
        assert (states, requested) == (["queued"] * 3, False)
    else:
        assert (states, requested) == (["cancelled"] * 3, True)
        assert await sql_client.sql.fetchval("select count(*) from treadle.parked") == 0
    await assert_consistent(sql_client.sql)


async def test_a_redrive_before_its_children_are_cancelled_keeps_them(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim, child = await sql_client.claim_one(), await new_id(sql_client)
    await send(sql_client, claim, child, delay_seconds=60)
    await sql_client.finish(claim, outcome="rejected")
    await sql_client.sql.execute("select treadle.redrive($1)", claim.message_id)
    await tend(sql_client)
    again = await sql_client.claim_one()
    await tend(sql_client)
    await sql_client.finish(again)
    await tend(sql_client)
    assert (await sql_client.state(child))[0] == "queued"
    await assert_consistent(sql_client.sql)
