"""Double-texting: what becomes of the open messages of a thread when another one arrives, also while others change
them."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.support.sql_client import SqlClient

WAYS = pytest.mark.parametrize("way", ["interrupt", "rollback"])


async def exchanges(client: SqlClient, before: UUID) -> list[tuple[Any, Any]]:
    """The history that an agent sees which answers this message, the oldest first."""
    rows = await client.sql.fetch(
        "select e.message, e.result from treadle.messages m"
        " cross join lateral treadle.exchanges(m.thread, m.ord, 50, false) e where m.message_id = $1",
        before,
    )
    return [(row["message"], row["result"]) for row in rows[::-1]]


async def test_reject_refuses_while_a_message_is_open(sql_client: SqlClient) -> None:
    first = await sql_client.submit("a", thread_id="t", on_busy="reject")
    other = await sql_client.submit("x", thread_id="u", on_busy="reject")
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError, match="The thread 't' is busy") as refused:
        await sql_client.submit("b", thread_id="t", on_busy="reject")
    assert refused.value.sqlstate == "TR409"
    assert await sql_client.all_rows() == before
    with pytest.raises(asyncpg.PostgresError, match="on_busy must be"):
        await sql_client.submit("b", thread_id="t", on_busy="wait")
    await sql_client.run()
    assert [await sql_client.state(each) for each in (first, other)] == [("completed", None)] * 2
    await sql_client.submit("b", thread_id="t", on_busy="reject")


@WAYS
async def test_the_open_messages_end_and_the_new_one_runs(sql_client: SqlClient, way: str) -> None:
    done = await sql_client.submit("done", thread_id="t")
    await sql_client.run()
    running = await sql_client.submit("a", thread_id="t")
    claim = await sql_client.claim_one()
    await sql_client.append((claim, claim.last_seq + 1, ["so ", "far"]))
    waiting = await sql_client.submit("b", thread_id="t", priority="high")
    aside = await sql_client.submit("aside", thread_id="t", aside=True)
    later = await sql_client.submit("later", thread_id="t", delay_seconds=60)
    new = await sql_client.submit("c", thread_id="t", on_busy=way)
    assert await sql_client.state(waiting) == ("cancelled", None)
    assert await sql_client.state(new) == ("queued", "thread")
    assert (await sql_client.heartbeat("w", claim)) == {running: "cancelled"}
    assert await sql_client.finish(claim, first_seq=claim.last_seq + 3) == ["cancelled"]
    assert await sql_client.types(waiting) == ["queued", "cancelled"]
    claims = {each.message_id: each for each in await sql_client.claim(10)}
    assert claims.keys() == {new, aside}
    kept = [("a", "so far"), ("b", "")] if way == "interrupt" else []
    assert await exchanges(sql_client, new) == [("done", "answer"), *kept]
    assert await sql_client.state(later) == ("queued", "delay")
    assert await sql_client.state(done) == ("completed", None)
    await sql_client.finish(*claims.values())
    # A repeat of the submit is no second interruption.
    next_one = await sql_client.submit("d", thread_id="t")
    assert await sql_client.submit("c", thread_id="t", on_busy=way, message_id=str(new)) == new
    assert await sql_client.state(next_one) == ("queued", None)


async def test_a_head_that_has_not_started_ends_at_once(sql_client: SqlClient) -> None:
    """In its lane, waiting to retry, and parked."""
    for prepare in ("lane", "backoff"):
        head = await sql_client.submit("a", thread_id=prepare)
        if prepare == "backoff":
            await sql_client.run(outcome="error")
        new = await sql_client.submit("b", thread_id=prepare, on_busy="interrupt")
        assert await sql_client.state(head) == ("cancelled", None)
        assert (await sql_client.claim_one()).message_id == new


async def test_a_claim_at_the_same_moment(sql_client: SqlClient) -> None:
    """The claim wins: its message runs, and is cancelled while it runs."""
    first = await sql_client.submit("a", thread_id="t")
    worker, client = await sql_client.connect(), await sql_client.connect()
    transaction = worker.sql.transaction()
    await transaction.start()
    claim = await worker.claim_one()
    submitting = asyncio.create_task(client.submit("b", thread_id="t", on_busy="interrupt"))
    await sql_client.until_blocked(client)
    await transaction.commit()
    new = await submitting
    assert await sql_client.finish(claim) == ["cancelled"]
    assert await exchanges(sql_client, new) == [("a", "")]
    assert (await sql_client.claim_one()).message_id == new
    assert await sql_client.state(first) == ("cancelled", None)


async def test_a_finish_at_the_same_moment(sql_client: SqlClient) -> None:
    """The finish wins: the answer is whole, and nothing is cancelled."""
    first = await sql_client.submit("a", thread_id="t")
    worker, client = await sql_client.connect(), await sql_client.connect()
    claim = await worker.claim_one()
    transaction = worker.sql.transaction()
    await transaction.start()
    assert await worker.finish(claim) == ["completed"]
    submitting = asyncio.create_task(client.submit("b", thread_id="t", on_busy="interrupt"))
    await sql_client.until_blocked(client)
    await transaction.commit()
    new = await submitting
    assert await sql_client.state(first) == ("completed", None)
    assert await exchanges(sql_client, new) == [("a", "answer")]
    assert (await sql_client.claim_one()).message_id == new


@pytest.mark.parametrize("way", ["reject", "interrupt", "rollback"])
async def test_two_arrivals_at_the_same_moment(sql_client: SqlClient, way: str) -> None:
    """One after the other: the second meets the first."""
    await sql_client.submit("a", thread_id="t")
    await sql_client.run()
    one, two = await sql_client.connect(), await sql_client.connect()
    transaction = one.sql.transaction()
    await transaction.start()
    first = await one.submit("b", thread_id="t", on_busy=way)
    submitting = asyncio.create_task(two.submit("c", thread_id="t", on_busy=way))
    await sql_client.until_blocked(two)
    await transaction.commit()
    if way == "reject":
        with pytest.raises(asyncpg.PostgresError, match="busy"):
            await submitting
        assert (await sql_client.claim_one()).message_id == first
        return
    second = await submitting
    assert await sql_client.state(first) == ("cancelled", None)
    assert (await sql_client.claim_one()).message_id == second


async def test_what_the_interrupted_message_waits_for_is_cancelled_too(sql_client: SqlClient) -> None:
    await sql_client.submit("a", thread_id="t")
    claim = await sql_client.claim_one()
    child = await sql_client.submit("child", parent=str(claim.message_id))
    await sql_client.finish(claim, outcome="error")
    await sql_client.submit("b", thread_id="t", on_busy="interrupt")
    assert await sql_client.state(child) == ("cancelled", None)


async def test_an_interrupted_message_that_a_tenant_does_not_see(sql_client: SqlClient) -> None:
    """A principal that does not see the thread interrupts nothing there."""
    first = await sql_client.submit("a", thread_id="t")
    with pytest.raises(asyncpg.PostgresError, match="There is no thread"):
        await sql_client.submit_many({"thread_id": "t", "on_busy": "interrupt"}, reach='{"owner": "someone"}')
    assert await sql_client.state(first) == ("queued", None)


async def ask(client: SqlClient, thread_id: str) -> UUID:
    """A message of the thread that waits for an answer; its log has more than 10,000 events."""
    asking = await client.submit("a", thread_id=thread_id)
    claim = await client.claim_one()
    await client.append((claim, claim.last_seq + 1, ["x"] * 10_000))
    await client.sql.execute(
        "select treadle.conclude($1, $2, 'input', '{}', null, null, null, null, $3, '{}', '{}', 3, null, null, null)",
        asking,
        claim.lease,
        claim.last_seq + 10_001,
    )
    return asking


async def questions(client: SqlClient, message_id: UUID) -> list[tuple[int, bool]]:
    rows = await client.sql.fetch("select seq, answered from treadle.questions(array[$1::uuid])", message_id)
    return [tuple(row) for row in rows]


async def test_a_message_in_place_of_an_answer(sql_client: SqlClient) -> None:
    """A refused one ends no question, and an answer that comes first is kept."""
    asking = await ask(sql_client, "t")
    for refusal, fields, limits in (
        ("TR422", {"agent": "missing"}, {}),
        ("TR422", {"on_busy": "wait"}, {}),
        ("TR429", {}, {"max_queue_size": 1}),
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await sql_client.submit_many({"thread_id": "t", "ends_question": True, **fields}, **limits)
        assert refused.value.sqlstate == refusal
    assert await sql_client.state(asking) == ("queued", "input")
    assert await questions(sql_client, asking) == [(10_003, False)]

    new = await sql_client.submit("b", thread_id="t", on_busy="reject", ends_question=True)
    assert await sql_client.state(asking) == ("cancelled", None)
    assert (await sql_client.claim_one()).message_id == new
    assert await exchanges(sql_client, new) == [("a", "x" * 10_000)]

    asking = await ask(sql_client, "u")
    person, client = await sql_client.connect(), await sql_client.connect()
    transaction = person.sql.transaction()
    await transaction.start()
    await person.sql.execute("select treadle.input($1, '1')", asking)
    submitting = asyncio.create_task(client.submit("b", thread_id="u", ends_question=True))
    await sql_client.until_blocked(client)
    await transaction.commit()
    await submitting
    assert await questions(sql_client, asking) == [(10_003, True)]
    assert (await sql_client.claim_one()).message_id == asking


async def incoming(client: SqlClient, claim: Any) -> list[Any]:
    rows = await client.sql.fetch("select message from treadle.take_incoming($1, $2)", claim.message_id, claim.lease)
    return [row["message"].strip('"') for row in rows]


async def test_a_running_message_takes_what_steers_it(sql_client: SqlClient) -> None:
    await sql_client.submit("a", thread_id="t")
    claim = await sql_client.claim_one()
    steers = await sql_client.submit("left", thread_id="t", on_busy="steer")
    waits = await sql_client.submit("b", thread_id="t")
    also = await sql_client.submit("faster", thread_id="t", on_busy="steer")
    assert await incoming(sql_client, claim) == ["left", "faster"]
    assert await sql_client.types(steers) == ["queued", "done"]
    assert [await sql_client.state(each) for each in (steers, also)] == [("completed", None)] * 2
    assert (await sql_client.message(steers))["result"] == {"steered_into": str(claim.message_id)}
    assert await incoming(sql_client, claim) == ["left", "faster"]  # also for a later attempt
    await sql_client.finish(claim, outcome="released")
    assert await incoming(sql_client, claim) == []  # the lease has ended
    again = await sql_client.claim_one()
    assert await incoming(sql_client, again) == ["left", "faster"]
    late = await sql_client.submit("late", thread_id="t", on_busy="steer")
    await sql_client.finish(again)
    [next_one] = await sql_client.claim(10)
    assert next_one.message_id == waits
    assert await exchanges(sql_client, late) == [("a", "answer"), ("left", ""), ("faster", "")]
    await sql_client.finish(next_one)
    assert (await sql_client.claim_one()).message_id == late  # no agent took it


async def test_a_finish_and_a_steering_message_at_the_same_moment(sql_client: SqlClient) -> None:
    """It is taken, or it runs: never both, never neither."""
    await sql_client.submit("a", thread_id="t")
    worker, other = await sql_client.connect(), await sql_client.connect()
    claim = await worker.claim_one()
    steers = await sql_client.submit("left", thread_id="t", on_busy="steer")
    transaction = worker.sql.transaction()
    await transaction.start()
    await worker.finish(claim)
    assert await incoming(other, claim) == []  # the thread is held: nothing is taken
    await transaction.commit()
    assert await incoming(other, claim) == []
    assert (await sql_client.claim_one()).message_id == steers
