"""The state machine of docs/lifecycle.md: every arrow that must not be, and leases that are worth nothing."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import OUTCOMES, SqlClient
from tests.support.sql_states import expect, lose_worker


async def refused(sql_client: SqlClient, state: str, call: Any) -> str:
    """The call raises this SQLSTATE and changes nothing; returns the sentence."""
    before = await sql_client.all_rows()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await call
    assert raised.value.sqlstate == state
    assert await sql_client.all_rows() == before
    return str(raised.value)


# States


# The last two leave messages that a claim would take.
STATES = ("delayed", "backoff", "processing", "completed", "failed", "cancelled", "queued", "held")


async def bring(sql_client: SqlClient, state: str) -> UUID:
    """A message in this state, in a thread of its own."""
    if state == "held":
        await sql_client.submit(thread_id=state)
    message_id = await sql_client.submit(
        thread_id=state, max_attempts=1 if state == "failed" else 3, delay_seconds=60 if state == "delayed" else 0
    )
    match state:
        case "processing":
            await sql_client.claim_one(worker="other")
        case "completed":
            await sql_client.run()
        case "failed" | "backoff":
            await sql_client.run(outcome="error")
        case "cancelled":
            await sql_client.cancel(message_id)
    return message_id


async def test_a_claim_takes_only_ready_messages(sql_client: SqlClient, subtests: pytest.Subtests) -> None:
    for state in STATES[:-2]:
        with subtests.test(state):
            await bring(sql_client, state)
            before = await sql_client.all_rows()
            assert await sql_client.claim(10) == []
            assert await sql_client.all_rows() == before
            await assert_consistent(sql_client.sql)


async def test_claim_takes_a_thread_s_head_and_not_who_waits_behind_it(sql_client: SqlClient) -> None:
    message_id = await bring(sql_client, "held")
    assert (await sql_client.claim_one()).message_id != message_id
    before = await sql_client.all_rows()
    assert await sql_client.claim(10) == []
    assert await sql_client.all_rows() == before


async def test_claim_takes_nothing_from_a_paused_queue(sql_client: SqlClient) -> None:
    message_id = await bring(sql_client, "queued")
    await sql_client.sql.execute("select treadle.pause('default')")
    before = await sql_client.all_rows()
    assert await sql_client.claim(10) == []
    assert await sql_client.all_rows() == before
    await sql_client.sql.execute("select treadle.pause('default', paused => false)")
    assert (await sql_client.claim_one()).message_id == message_id


async def test_cancel_of_a_finished_message_is_refused(sql_client: SqlClient, subtests: pytest.Subtests) -> None:
    for state in ("completed", "failed", "cancelled"):
        with subtests.test(state):
            message_id = await bring(sql_client, state)
            sentence = await refused(sql_client, "TR409", sql_client.cancel(message_id))
            assert sentence == f"The message is {state} already."
            await assert_consistent(sql_client.sql)


async def test_redrive_of_what_has_not_failed_is_refused(sql_client: SqlClient, subtests: pytest.Subtests) -> None:
    for state in STATES:
        if state == "failed":
            continue
        with subtests.test(state):
            message_id = await bring(sql_client, state)
            public = state if state in ("processing", "completed", "cancelled") else "queued"
            sentence = await refused(sql_client, "TR409", sql_client.redrive(message_id))
            assert sentence == f"The message is {public}, not failed."
            await assert_consistent(sql_client.sql)


async def test_cancel_and_redrive_of_an_unknown_message_are_refused(sql_client: SqlClient) -> None:
    message_id = uuid4()
    for call in (sql_client.cancel(message_id), sql_client.redrive(message_id)):
        assert await refused(sql_client, "TR404", call) == f"There is no message {message_id}."


async def test_pause_of_an_unknown_queue_and_deletion_of_an_unknown_thread_are_refused(sql_client: SqlClient) -> None:
    assert (
        await refused(sql_client, "TR404", sql_client.sql.execute("select treadle.pause('q')"))
        == "There is no queue 'q'."
    )
    call = sql_client.sql.execute("select treadle.delete_thread('t')")
    assert await refused(sql_client, "TR404", call) == "There is no thread 't'."


# Leases


async def lost(sql_client: SqlClient, claim: Any) -> None:
    """A worker with this claim can write nothing."""
    before = await sql_client.all_rows()
    assert await sql_client.append((claim, claim.last_seq + 1, ["x"])) == ["lost"]
    assert await sql_client.append((claim, claim.last_seq + 1, ["x"]), patient=False) == ["lost"]
    for outcome in OUTCOMES:
        assert await sql_client.finish(claim, outcome=outcome, chunks=["x"]) == ["lost"]
        assert await sql_client.finish(claim, outcome=outcome, patient=False) == ["lost"]
    assert await sql_client.all_rows() == before


async def test_a_wrong_lease_writes_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    await lost(sql_client, msgspec.structs.replace(claim, lease=uuid4()))


async def test_the_lease_of_another_message_writes_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    await sql_client.submit(thread_id="u")
    one, other = await sql_client.claim(2)
    await lost(sql_client, msgspec.structs.replace(one, lease=other.lease))


async def test_an_unknown_message_is_lost(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    await lost(sql_client, msgspec.structs.replace(await sql_client.claim_one(), message_id=uuid4()))


async def test_after_finish_the_lease_is_worth_nothing(sql_client: SqlClient, subtests: pytest.Subtests) -> None:
    for outcome in OUTCOMES:  # the last one leaves a message that a claim would take
        with subtests.test(outcome):
            await sql_client.submit(thread_id=outcome)
            claim = await sql_client.claim_one()
            await sql_client.finish(claim, outcome=outcome)
            await lost(sql_client, claim)
            await assert_consistent(sql_client.sql)


async def test_an_old_lease_is_worth_nothing_while_a_new_attempt_runs(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    old = await sql_client.claim_one()
    await sql_client.finish(old, outcome="released")
    new = await sql_client.claim_one()
    await lost(sql_client, old)
    await lost(sql_client, msgspec.structs.replace(old, last_seq=new.last_seq))
    assert await sql_client.finish(new) == ["completed"]


async def test_the_lease_of_a_reaped_worker_is_worth_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    await lose_worker(sql_client, claim)
    await lost(sql_client, claim)


async def test_the_lease_of_a_deleted_message_is_worth_nothing(sql_client: SqlClient) -> None:
    await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    await sql_client.sql.execute("select treadle.delete_thread('t')")
    await lost(sql_client, claim)


async def test_one_bad_lease_in_a_batch_spoils_nothing(sql_client: SqlClient) -> None:
    for thread_id in ("t", "u", "v"):
        await sql_client.submit(thread_id=thread_id)
    one, two, three = await sql_client.claim(3)
    wrong = msgspec.structs.replace(two, lease=uuid4())
    assert await sql_client.append((one, 3, ["a"]), (wrong, 3, ["b"]), (three, 3, ["c"])) == ["ok", "lost", "ok"]
    assert await sql_client.finish(one, wrong, three, first_seq=4) == ["completed", "lost", "completed"]
    await expect(sql_client, two.message_id, "processing", "queued started", lane="normal", attempt=1)
