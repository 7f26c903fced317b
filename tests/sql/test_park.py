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
from service.queues.model import Claim
from tests.support.invariants import assert_consistent
from tests.support.sql_client import Loom, prepare


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator[Loom]:
    async with contextlib.AsyncExitStack() as stack:
        await prepare(sql)
        loom = Loom(sql, dsn, stack)
        await loom.register()
        yield loom


async def new_id(loom: Loom) -> UUID:
    return UUID(str(await loom.sql.fetchval("select treadle.uuid7()")))


def letters(claim: Claim, *ids: UUID, **fields: Any) -> str:
    return json.dumps(
        [{"message_id": str(i), "message": "hello", "parent": str(claim.message_id), **fields} for i in ids]
    )


async def send(loom: Loom, claim: Claim, *ids: UUID, first_seq: int | None = None, **fields: Any) -> tuple[str, bool]:
    """Append a step that sends messages."""
    row = await loom.sql.fetchrow(
        "select * from treadle.append_and_send($1, $2, $3, '{step}', $4, $5)",
        claim.message_id,
        claim.lease,
        claim.last_seq + 1 if first_seq is None else first_seq,
        ['{"name": "s", "result": 1}'],
        letters(claim, *ids, **fields),
    )
    return row["status"], row["cancel_requested"]


async def conclude(
    loom: Loom,
    claim: Claim,
    outcome: str = "completed",
    *,
    sends: str | None = None,
    state: str | None = None,
    children: list[UUID] | None = None,
    first_seq: int | None = None,
) -> str:
    return str(
        await loom.sql.fetchval(
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


async def count(loom: Loom) -> int:
    return int(await loom.sql.fetchval("select count(*) from treadle.messages"))


async def tend(loom: Loom, *ids: UUID) -> int:
    return int(await loom.sql.fetchval("select treadle.tend_parents($1)", list(ids) or None))


PLACES = pytest.mark.parametrize("target", [None, "own", "new", "old"])


@PLACES
async def test_a_step_and_what_it_sends(loom: Loom, target: str | None) -> None:
    await loom.submit(thread_id="old")
    await loom.run()
    await loom.submit(thread_id="own")
    claim, child = await loom.claim_one(), await new_id(loom)
    place = {"thread_id": target} if target else {}
    for _ in range(2):  # the second time its answer was lost
        assert await send(loom, claim, child, **place) == ("ok", False)
    assert await loom.types(claim.message_id) == ["queued", "started", "step"]
    assert await loom.state(child) == ("queued", "thread" if target == "own" else None)
    assert (await loom.message(child))["parent"] == claim.message_id
    assert await count(loom) == 3
    await assert_consistent(loom.sql)


async def test_who_has_lost_the_lease_sends_nothing(loom: Loom) -> None:
    await loom.submit()
    claim, child = await loom.claim_one(), await new_id(loom)
    await loom.finish(claim, outcome="released")
    before = await loom.everything()
    assert await send(loom, claim, child, thread_id="new") == ("lost", False)
    assert await conclude(loom, claim, sends=letters(claim, child, thread_id="new"), state='{"a": 1}') == "lost"
    assert await conclude(loom, claim, "children", sends=letters(claim, child), children=[child]) == "lost"
    assert await loom.everything() == before


async def test_who_is_cancelled_sends_nothing(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim, child = await loom.claim_one(), await new_id(loom)
    assert await loom.cancel(claim.message_id) == "requested"
    assert await send(loom, claim, child, thread_id="new") == ("ok", True)
    assert (
        await conclude(
            loom, claim, "children", sends=letters(claim, child), children=[child], first_seq=claim.last_seq + 2
        )
        == "cancelled"
    )
    assert (await count(loom), await loom.sql.fetchval("select count(*) from treadle.threads")) == (1, 1)
    await assert_consistent(loom.sql)


async def test_events_that_are_missing_send_nothing(loom: Loom) -> None:
    await loom.submit()
    claim, child = await loom.claim_one(), await new_id(loom)
    before = await loom.everything()
    assert await send(loom, claim, child, thread_id="new", first_seq=9) == ("gap", False)
    assert await conclude(loom, claim, sends=letters(claim, child, thread_id="new"), first_seq=9) == "gap"
    assert await loom.everything() == before


async def test_a_refused_message_undoes_the_end(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim, child = await loom.claim_one(), await new_id(loom)
    before = await loom.everything()
    with pytest.raises(asyncpg.PostgresError, match="There is no agent 'nobody'"):
        await conclude(loom, claim, sends=letters(claim, child, agent="nobody", thread_id="new"))
    assert await loom.everything() == before
    assert await conclude(loom, claim) == "completed"


async def test_a_parked_message_goes_on_first_when_the_last_child_is_over(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    one, two = await new_id(loom), await new_id(loom)
    assert await conclude(loom, claim, "children", sends=letters(claim, one, two), children=[one, two]) == "queued"
    assert await loom.state(claim.message_id) == ("queued", "children")
    assert (await loom.thread("t"))["turn"] == claim.message_id
    await assert_consistent(loom.sql)
    (first,) = await loom.claim(1)
    await loom.finish(first)
    assert await tend(loom) == 0
    (second,) = await loom.claim(1)
    assert await tend(loom, claim.message_id) == 0
    await loom.finish(second, outcome="rejected")
    await loom.submit(priority="high")
    assert await tend(loom) == 1
    assert await tend(loom) == 0
    await assert_consistent(loom.sql)
    claims = await loom.claim(2)
    assert {c.message_id for c in claims} >= {claim.message_id}
    again = next(c for c in claims if c.message_id == claim.message_id)
    assert (again.attempt, again.failures, again.losses) == (2, 0, 0)
    assert await loom.types(claim.message_id) == ["queued", "started", "parked", "started"]
    assert await conclude(loom, again, state='{"a": 1}') == "completed"
    assert (await loom.thread("t"))["memory"] == {"a": 1}
    await assert_consistent(loom.sql)


async def test_children_that_are_gone_are_not_waited_for(loom: Loom) -> None:
    await loom.submit()
    claim, child = await loom.claim_one(), await new_id(loom)
    await conclude(loom, claim, "children", sends=letters(claim, child, thread_id="child"), children=[child])
    await loom.sql.execute("select treadle.delete_thread('child')")
    assert await tend(loom) == 1
    await assert_consistent(loom.sql)


async def test_the_tending_passes_over_what_others_hold(loom: Loom) -> None:
    await loom.submit(thread_id="a")
    await loom.submit(thread_id="b")
    for claim in await loom.claim(2):
        await conclude(loom, claim, "children", children=[uuid4()])
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 'a' for update")
        assert await tend(loom) == 1
    assert await tend(loom) == 1
    await assert_consistent(loom.sql)


async def test_cancelling_a_parent_cancels_a_tree(loom: Loom) -> None:
    """Of those that wait, and those that run; what another transaction holds is cancelled later."""
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    ids = [await new_id(loom) for _ in range(4)]
    waits, runs, parked, held = ids
    sends = json.dumps(
        json.loads(letters(claim, waits, delay_seconds=60))
        + json.loads(letters(claim, runs, parked, priority="high"))
        + json.loads(letters(claim, held, delay_seconds=60, thread_id="held"))
    )
    await conclude(loom, claim, "children", sends=sends, children=ids)
    for child in await loom.claim(2):
        if child.message_id == parked:
            grandchild = await new_id(loom)
            letter = letters(child, grandchild, delay_seconds=60)
            await conclude(loom, child, "children", sends=letter, children=[grandchild])
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 'held' for update")
        assert await loom.cancel(claim.message_id) == "cancelled"
        assert await loom.state(held) == ("queued", "delay")
    assert [await loom.state(i) for i in (waits, runs)] == [("cancelled", None), ("processing", None)]
    assert await loom.sql.fetchval("select cancel_requested from treadle.leases where message_id = $1", runs)
    for _ in range(2):
        await tend(loom)
    assert [(await loom.state(i))[0] for i in (held, parked, grandchild)] == ["cancelled"] * 3
    assert await loom.sql.fetchval("select count(*) from treadle.parked") == 0
    await assert_consistent(loom.sql)


async def test_a_crowd_that_sends_to_each_other_meets_no_deadlock(loom: Loom) -> None:
    """Parents of some threads send to the same threads, in any order, while others finish, submit and cancel there."""
    names = [f"t{n}" for n in range(4)]
    for name in names:
        await loom.submit(thread_id=name)
    looms = [await loom.connect() for _ in range(4)]

    async def parent(ours: Loom, n: int) -> None:
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

    await asyncio.gather(*(parent(ours, n) for n, ours in enumerate(looms)))
    await tend(loom)
    await assert_consistent(loom.sql)


async def test_input_is_refused_where_none_is_asked(loom: Loom) -> None:
    message_id = await loom.submit(thread_id="t")
    for state, code in (("queued", "TR409"), ("processing", "TR409")):
        with pytest.raises(asyncpg.PostgresError, match=f"does not wait for input: it is {state}") as refused:
            await loom.sql.execute("select treadle.input($1, '1')", message_id)
        assert refused.value.sqlstate == code
        if state == "queued":
            claim = await loom.claim_one()
    with pytest.raises(asyncpg.PostgresError, match="There is no message"):
        await loom.sql.execute("select treadle.input($1, '1')", uuid4())
    assert await conclude(loom, claim, "input") == "queued"
    with pytest.raises(asyncpg.PostgresError, match="input must be given"):
        await loom.sql.execute("select treadle.input($1, null)", message_id)
    assert await loom.cancel(message_id) == "cancelled"
    await assert_consistent(loom.sql)
