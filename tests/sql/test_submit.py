"""Submit: order, turns, batches, and threads that others hold."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient


async def refused(sql_client: SqlClient, *messages: Any, state: str = "TR422", **arguments: Any) -> str:
    """The whole batch is refused and nothing changes; returns the sentence."""
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await sql_client.submit_many(*messages, **arguments)
    assert raised.value.sqlstate == state
    assert await sql_client.all_rows() == before
    return str(raised.value)


async def order(sql_client: SqlClient) -> list[UUID]:
    """The order in which messages run, one after the other."""
    ran = []
    while claims := await sql_client.run(1):
        ran.append(claims[0].message_id)
    return ran


# Order and turns


async def test_places_in_a_thread_are_given_in_the_order_of_submission(sql_client: SqlClient) -> None:
    first = await sql_client.submit(thread_id="t")
    rows = await sql_client.submit_many(*[{"thread_id": "t"}] * 3)
    last = await sql_client.submit(thread_id="t")
    ids = [first, *[row["message_id"] for row in rows], last]
    assert [(await sql_client.message(id))["ord"] for id in ids] == [1, 2, 3, 4, 5]
    assert await order(sql_client) == ids


async def test_a_thread_runs_by_priority_and_then_by_place(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    priorities = ["low", "normal", "high", "low", "normal", "high"]
    ids = [await sql_client.submit(thread_id="t", priority=priority) for priority in priorities]
    await sql_client.finish(claim)
    assert await order(sql_client) == [ids[n] for n in (2, 5, 1, 4, 0, 3)]


async def test_the_first_turn_of_a_batch_goes_to_its_highest_priority(sql_client: SqlClient) -> None:
    rows = await sql_client.submit_many(
        {"thread_id": "t", "priority": "low"},
        {"thread_id": "t", "priority": "high", "delay_seconds": 9},
        {"thread_id": "t", "priority": "high", "aside": True},
        {"thread_id": "t"},
        {"thread_id": "t"},
    )
    low, delayed, aside, one, two = [row["message_id"] for row in rows]
    assert (await sql_client.thread("t"))["turn"] == one
    assert [(await sql_client.message(id))["hold"] for id in (low, delayed, aside, one, two)] == [
        "thread",
        "delay",
        None,
        None,
        "thread",
    ]
    assert [(await sql_client.message(id))["ord"] for id in (low, delayed, aside, one, two)] == [1, 2, 3, 4, 5]
    assert await order(sql_client) == [aside, one, two, low]


async def test_an_unstarted_head_gives_way_to_a_higher_priority(sql_client: SqlClient) -> None:
    low = await sql_client.submit(thread_id="t", priority="low")
    normal = await sql_client.submit(thread_id="t")
    assert (await sql_client.thread("t"))["turn"] == normal
    assert await sql_client.state(low) == ("queued", "thread")
    assert await sql_client.lanes() == [[], [normal], []]
    await assert_consistent(sql_client.sql)
    high = await sql_client.submit(thread_id="t", priority="high")
    assert await sql_client.lanes() == [[high], [], []]
    assert await order(sql_client) == [high, normal, low]


async def test_a_head_does_not_give_way_to_its_equal(sql_client: SqlClient) -> None:
    head = await sql_client.submit(thread_id="t")
    await sql_client.submit(thread_id="t")
    assert (await sql_client.thread("t"))["turn"] == head


@pytest.mark.parametrize("start", ["running", "released", "backoff", "admitted"])
async def test_a_started_head_does_not_give_way(sql_client: SqlClient, start: str) -> None:
    head = await sql_client.submit(thread_id="t", priority="low")
    claim = await sql_client.claim_one()
    if start == "released":
        await sql_client.finish(claim, outcome="released")
    elif start in ("backoff", "admitted"):
        await sql_client.finish(claim, outcome="error", delay=0 if start == "admitted" else 60)
        await sql_client.sql.fetchval("select admitted from treadle.admit_due()")
    await sql_client.submit(thread_id="t", priority="high")
    assert (await sql_client.thread("t"))["turn"] == head


async def test_a_head_that_a_worker_takes_just_now_does_not_give_way(sql_client: SqlClient) -> None:
    head = await sql_client.submit(thread_id="t", priority="low")
    other = await sql_client.connect()
    async with other.sql.transaction():
        claim = await other.claim_one()
        # The claim holds the thread's log, and this submit needs it: it goes on once the claim has committed.
        submitting = asyncio.create_task(sql_client.submit(thread_id="t", priority="high"))
        await (await sql_client.connect()).until_blocked(sql_client)
    high = await submitting
    assert (await sql_client.thread("t"))["turn"] == head == claim.message_id
    assert await sql_client.state(high) == ("queued", "thread")
    await sql_client.finish(claim)
    assert (await sql_client.thread("t"))["turn"] == high


async def test_a_message_aside_takes_no_turn_but_belongs_to_the_thread(sql_client: SqlClient) -> None:
    head = await sql_client.submit(thread_id="t")
    aside = await sql_client.submit(thread_id="t", aside=True)
    assert {claim.message_id for claim in await sql_client.claim(10)} == {head, aside}
    assert (await sql_client.message(aside))["ord"] == 2
    thread = await sql_client.thread("t")
    assert (thread["turn"], thread["last_ord"]) == (head, 2)
    rows = await sql_client.sql.fetch(
        "select * from treadle.read_events(null, '{0}', 100, array[$1::bigint])", thread["id"]
    )
    assert aside in {row["message_id"] for row in rows}


async def test_a_delayed_message_takes_its_place_when_it_is_due(sql_client: SqlClient) -> None:
    delayed = await sql_client.submit(thread_id="t", delay_seconds=10)
    head = await sql_client.submit(thread_id="t")
    waiting = await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    await sql_client.shift_clock(11)
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 1
    assert await sql_client.state(delayed) == ("queued", "thread")
    assert (await sql_client.thread("t"))["turn"] == head
    await sql_client.finish(claim)
    assert await order(sql_client) == [delayed, waiting]


async def test_a_delayed_message_of_higher_priority_swaps_an_unstarted_head_when_due(sql_client: SqlClient) -> None:
    delayed = await sql_client.submit(thread_id="t", delay_seconds=10, priority="high")
    head = await sql_client.submit(thread_id="t")
    await sql_client.shift_clock(11)
    await sql_client.sql.fetchval("select admitted from treadle.admit_due()")
    assert (await sql_client.thread("t"))["turn"] == delayed
    assert await order(sql_client) == [delayed, head]


async def test_a_delay_too_short_to_be_one_breaks_no_turn(sql_client: SqlClient) -> None:
    """Less than a microsecond is nothing to PostgreSQL's clock."""
    for _ in range(2):
        await sql_client.submit(thread_id="t", delay_seconds=1e-9)
    await assert_consistent(sql_client.sql)
    assert len(await sql_client.claim(10)) == 1


# Batches


async def test_a_batch_may_mix_queues_agents_and_threads(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "other", "queue": "side", "timeout_seconds": 5, "max_attempts": 9})
    rows = await sql_client.submit_many(
        {"message": "1", "thread_id": "t"},
        {"message": "2", "agent": "other", "priority": "high"},
        {"message": "3", "agent": "other", "thread_id": "t"},
        {"message": "4", "thread_id": "u", "priority": "low"},
        {"message": "5"},
        {"message": "6", "agent": "echo", "thread_id": "u"},
    )
    ids = [row["message_id"] for row in rows]
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["queue"] for row in rows] == ["default", "side", "side", "default", "default", "default"]
    assert [row["thread_id"] for row in rows] == ["t", None, "t", "u", None, "u"]
    assert {row["state"] for row in rows} == {"queued"}
    assert rows[0]["thread"] == (await sql_client.thread("t"))["id"]
    messages = [await sql_client.message(id) for id in ids]
    assert [message["body"] for message in messages] == ["1", "2", "3", "4", "5", "6"]
    assert [message["ord"] for message in messages] == [1, None, 2, 1, None, 2]
    assert [message["hold"] for message in messages] == [None, None, "thread", "thread", None, None]
    assert [(message["timeout_seconds"], message["max_attempts"]) for message in messages[:2]] == [(60, 3), (5, 9)]
    assert await sql_client.lanes() == [[], [ids[0], ids[4], ids[5]], []]
    assert await sql_client.lanes("side") == [[ids[1]], [], []]
    # The thread goes on in the queue of its next message's agent.
    await sql_client.run()
    assert await sql_client.lanes("side") == [[ids[1]], [ids[2]], []]


async def test_an_empty_batch_is_no_harm(sql_client: SqlClient) -> None:
    assert await sql_client.submit_many() == []


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_all_or_nothing(sql_client: SqlClient, place: int) -> None:
    messages: list[dict[str, Any]] = [{"thread_id": "t"}, {"thread_id": "t"}]
    messages.insert(place, {"thread_id": "t", "priority": "urgent"})
    await refused(sql_client, *messages)


# Threads that others hold


async def test_an_impatient_batch_passes_over_held_threads(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    for thread_id in ("t", "u"):
        await sql_client.submit(thread_id=thread_id)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for no key update")
        rows = await sql_client.submit_many(
            {"thread_id": "u"},
            {"thread_id": "t"},
            {},
            {"thread_id": "t"},
            {"thread_id": "new"},
            patient=False,
            strict=False,
        )
    assert [row["state"] for row in rows] == ["queued", "busy", "queued", "busy", "queued"]
    assert [row["message_id"] is None for row in rows] == [False, True, False, True, False]
    assert [row["thread_id"] for row in rows] == ["u", "t", None, "t", "new"]
    assert (await sql_client.thread("t"))["last_ord"] == 1
    assert (await sql_client.thread("u"))["last_ord"] == 2


async def test_an_impatient_batch_of_busy_messages_alone_writes_nothing(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    await sql_client.submit(thread_id="t")
    before = await sql_client.all_rows()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for no key update")
        rows = await sql_client.submit_many({"thread_id": "t"}, patient=False, strict=False)
    assert [(row["state"], row["message_id"]) for row in rows] == [("busy", None)]
    assert await sql_client.all_rows() == before


async def test_a_repeat_in_a_busy_thread_is_known_all_the_same(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    message = {"message_id": str(uuid7()), "thread_id": "t"}
    await sql_client.submit_many(message)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for no key update")
        assert [row["state"] for row in await sql_client.submit_many(message, patient=False)] == ["queued"]


async def test_an_impatient_batch_passes_over_a_thread_that_is_just_being_made(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.submit(thread_id="new")
        await sql_client.sql.execute("set statement_timeout = '30s'")
        rows = await sql_client.submit_many(
            {"thread_id": "new"}, {}, {"thread_id": "other"}, {"thread_id": "third"}, patient=False, strict=False
        )
        await sql_client.sql.execute("reset statement_timeout")
        assert [row["state"] for row in rows] == ["busy", "queued", "queued", "queued"]
    alone = await sql_client.submit_many({"thread_id": "other"}, {"thread_id": "new"}, patient=False)
    assert [row["state"] for row in alone] == ["queued", "queued"]


IMPATIENT = {
    "submit_many": """select treadle.submit_many('[{"message": "x"}, {"message": "x", "thread_id": "t"}]',
        patient => false)""",
    "submit_once": """select treadle.submit_once('k', '', '[{"message": "x", "thread_id": "t"}]', patient => false)""",
    "cancel": "select treadle.cancel('{queued}', patient => false)",
    "redrive": "select treadle.redrive('{failed}', patient => false)",
    "input": "select treadle.input('{queued}', '1', patient => false)",
    "delete_thread": "select treadle.delete_thread('t', patient => false)",
}


@pytest.mark.parametrize("call", IMPATIENT)
async def test_an_impatient_call_names_the_held_thread_and_writes_nothing(sql_client: SqlClient, call: str) -> None:
    failed = await sql_client.submit(thread_id="t", aside=True)
    await sql_client.run(outcome="rejected")
    queued = await sql_client.submit(thread_id="t")
    before = await sql_client.all_rows()
    other = await sql_client.connect()
    statement = IMPATIENT[call].replace("{queued}", str(queued)).replace("{failed}", str(failed))
    async with other.sql.transaction():
        await other.submit(thread_id="t")
        await sql_client.sql.execute("set statement_timeout = '30s'")
        with pytest.raises(asyncpg.LockNotAvailableError) as caught:
            await sql_client.sql.execute(statement)
        assert caught.value.detail == "default/t"
        await sql_client.sql.execute("reset statement_timeout")
        assert await sql_client.all_rows() == before


async def test_a_patient_submit_waits_for_the_thread(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    await sql_client.submit(thread_id="t")
    async with other.sql.transaction():
        first = await other.submit(thread_id="t")
        waiting = asyncio.create_task(sql_client.submit(thread_id="t"))
        await (await sql_client.connect()).until_blocked(sql_client)
    second = await waiting
    assert [(await sql_client.message(id))["ord"] for id in (first, second)] == [2, 3]


async def test_a_submit_that_does_not_say_is_patient(sql_client: SqlClient) -> None:
    other = await sql_client.connect()
    await sql_client.submit(thread_id="t")
    async with other.sql.transaction():
        await other.submit(thread_id="t")
        await sql_client.sql.execute("set statement_timeout = '30s'; set lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await sql_client.submit_many({"thread_id": "t"}, patient=None)
        await sql_client.sql.execute("reset statement_timeout")


async def test_a_message_and_its_agent_say_how_often_workers_may_be_lost(sql_client: SqlClient) -> None:
    """With one attempt and one loss, a message that was released fails as well: it runs at most once."""
    await sql_client.register({"settings": {"max_losses": 2}})
    agents, own = await sql_client.submit("a"), await sql_client.submit("b", max_losses=1)
    assert sorted(await sql_client.finish(*await sql_client.claim(2), outcome="lost")) == ["failed", "queued"]
    assert (await sql_client.message(own))["state"] == "failed"
    assert await sql_client.finish(await sql_client.claim_one(), outcome="lost") == ["failed"]
    assert (await sql_client.message(agents))["losses"] == 2
    await sql_client.submit("c", max_losses=1, max_attempts=1)
    assert await sql_client.finish(await sql_client.claim_one(), outcome="released") == ["failed"]


async def test_the_function_for_sql_users_takes_losses_and_the_metadata_of_a_new_thread(sql_client: SqlClient) -> None:
    call = "select treadle.submit('x', thread_id => 't', max_losses => 2, thread_metadata => $1::jsonb)"
    for metadata in ('{"a": 1}', '{"a": 2}'):
        message_id = await sql_client.sql.fetchval(call, metadata)
    assert (await sql_client.message(message_id))["max_losses"] == 2
    assert await sql_client.sql.fetchval("select metadata ->> 'a' from treadle.threads") == "1"
    sentence = await refused(sql_client, {"thread_id": "u", "thread_metadata": [1]})
    assert sentence == "thread_metadata must be an object."
