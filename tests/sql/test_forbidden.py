"""The state machine (DESIGN, section 3): every arrow that must not be, and leases that are worth nothing."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from tests.support.sql_client import OUTCOMES, Loom, expect, lose


async def refused(loom: Loom, state: str, call: Any) -> str:
    """The call raises this SQLSTATE and changes nothing; returns the sentence."""
    before = await loom.everything()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await call
    assert raised.value.sqlstate == state
    assert await loom.everything() == before
    return str(raised.value)


# States


STATES = ("queued", "held", "delayed", "backoff", "processing", "completed", "failed", "cancelled")


async def bring(loom: Loom, state: str) -> UUID:
    """A message in this state, in a thread of its own."""
    if state == "held":
        await loom.submit(thread_id="t")
    message_id = await loom.submit(
        thread_id="t", max_attempts=1 if state == "failed" else 3, delay_seconds=60 if state == "delayed" else 0
    )
    match state:
        case "processing":
            await loom.claim_one(worker="other")
        case "completed":
            await loom.run()
        case "failed" | "backoff":
            await loom.run(outcome="error")
        case "cancelled":
            await loom.cancel(message_id)
    return message_id


@pytest.mark.parametrize("state", [state for state in STATES if state not in ("queued", "held")])
async def test_claim_takes_nothing_but_what_is_ready(loom: Loom, state: str) -> None:
    await bring(loom, state)
    before = await loom.everything()
    assert await loom.claim(10) == []
    assert await loom.everything() == before


async def test_claim_takes_a_thread_s_head_and_not_who_waits_behind_it(loom: Loom) -> None:
    message_id = await bring(loom, "held")
    assert (await loom.claim_one()).message_id != message_id
    before = await loom.everything()
    assert await loom.claim(10) == []
    assert await loom.everything() == before


async def test_claim_takes_nothing_from_a_paused_queue(loom: Loom) -> None:
    message_id = await bring(loom, "queued")
    await loom.sql.execute("select treadle.pause('default')")
    before = await loom.everything()
    assert await loom.claim(10) == []
    assert await loom.everything() == before
    await loom.sql.execute("select treadle.pause('default', paused => false)")
    assert (await loom.claim_one()).message_id == message_id


@pytest.mark.parametrize("state", ["completed", "failed", "cancelled"])
async def test_cancel_of_what_is_over_is_refused(loom: Loom, state: str) -> None:
    message_id = await bring(loom, state)
    sentence = await refused(loom, "TR409", loom.cancel(message_id))
    assert sentence == f"The message is {state} already."


@pytest.mark.parametrize("state", [state for state in STATES if state != "failed"])
async def test_redrive_of_what_has_not_failed_is_refused(loom: Loom, state: str) -> None:
    message_id = await bring(loom, state)
    public = state if state in ("processing", "completed", "cancelled") else "queued"
    sentence = await refused(loom, "TR409", loom.redrive(message_id))
    assert sentence == f"The message is {public}, not failed."


async def test_cancel_and_redrive_of_what_is_not_there(loom: Loom) -> None:
    message_id = uuid4()
    for call in (loom.cancel(message_id), loom.redrive(message_id)):
        assert await refused(loom, "TR404", call) == f"There is no message {message_id}."


async def test_pausing_and_deleting_what_is_not_there(loom: Loom) -> None:
    assert await refused(loom, "TR404", loom.sql.execute("select treadle.pause('q')")) == "There is no queue 'q'."
    call = loom.sql.execute("select treadle.delete_thread('t')")
    assert await refused(loom, "TR404", call) == "There is no thread 't'."


# Leases


async def lost(loom: Loom, claim: Any) -> None:
    """Whoever holds this claim can write nothing."""
    before = await loom.everything()
    assert await loom.append((claim, claim.last_seq + 1, ["x"])) == ["lost"]
    assert await loom.append((claim, claim.last_seq + 1, ["x"]), patient=False) == ["lost"]
    for outcome in OUTCOMES:
        assert await loom.finish(claim, outcome=outcome, chunks=["x"]) == ["lost"]
        assert await loom.finish(claim, outcome=outcome, patient=False) == ["lost"]
    assert await loom.everything() == before


async def test_a_wrong_lease_writes_nothing(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    await lost(loom, msgspec.structs.replace(claim, lease=uuid4()))


async def test_the_lease_of_another_message_writes_nothing(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    await loom.submit(thread_id="u")
    one, other = await loom.claim(2)
    await lost(loom, msgspec.structs.replace(one, lease=other.lease))


async def test_an_unknown_message_is_lost(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    await lost(loom, msgspec.structs.replace(await loom.claim_one(), message_id=uuid4()))


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_after_finish_the_lease_is_worth_nothing(loom: Loom, outcome: str) -> None:
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    await loom.finish(claim, outcome=outcome)
    await lost(loom, claim)


async def test_an_old_lease_is_worth_nothing_while_a_new_attempt_runs(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    old = await loom.claim_one()
    await loom.finish(old, outcome="released")
    new = await loom.claim_one()
    await lost(loom, old)
    await lost(loom, msgspec.structs.replace(old, last_seq=new.last_seq))
    assert await loom.finish(new) == ["completed"]


async def test_the_lease_of_a_reaped_worker_is_worth_nothing(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    await lose(loom, claim)
    await lost(loom, claim)


async def test_the_lease_of_a_deleted_message_is_worth_nothing(loom: Loom) -> None:
    await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    await loom.sql.execute("select treadle.delete_thread('t')")
    await lost(loom, claim)


async def test_one_bad_lease_in_a_batch_spoils_nothing(loom: Loom) -> None:
    for thread_id in ("t", "u", "v"):
        await loom.submit(thread_id=thread_id)
    one, two, three = await loom.claim(3)
    wrong = msgspec.structs.replace(two, lease=uuid4())
    assert await loom.append((one, 3, ["a"]), (wrong, 3, ["b"]), (three, 3, ["c"])) == ["ok", "lost", "ok"]
    assert await loom.finish(one, wrong, three, first_seq=4) == ["completed", "lost", "completed"]
    await expect(loom, two.message_id, "processing", "queued started", lane="normal", attempt=1)
