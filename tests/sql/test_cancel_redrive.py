"""The state machine (DESIGN, section 3): every arrow of cancel and redrive."""

from typing import Any
from uuid import UUID

import pytest

from tests.support.sql_client import OUTCOMES, PLACES, Loom, expect, lose, turn

# cancel


@PLACES
async def test_cancel_of_a_queued_message(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(**place)
    follower = await loom.submit(**place)
    assert await loom.cancel(message_id) == "cancelled"
    message = await expect(loom, message_id, "cancelled", "queued cancelled")
    assert message["completed_at"] is not None
    assert (await loom.log(message_id))[-1] == ("cancelled", {"state": "cancelled"})
    await expect(loom, follower, "queued", "queued", lane="normal")
    if place == {"thread_id": "t"}:
        assert await turn(loom) == follower


async def test_cancel_of_a_message_behind_its_thread(loom: Loom) -> None:
    head, message_id, follower = [await loom.submit(thread_id="t") for _ in range(3)]
    assert await loom.cancel(message_id) == "cancelled"
    await expect(loom, message_id, "cancelled", "queued cancelled")
    assert await turn(loom) == head
    await loom.run()
    assert await turn(loom) == follower


@PLACES
async def test_cancel_of_a_delayed_message(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(delay_seconds=60, **place)
    assert await loom.cancel(message_id) == "cancelled"
    await expect(loom, message_id, "cancelled", "queued cancelled")
    await loom.shift(61)
    assert await loom.sql.fetchval("select treadle.admit_due()") == 0


@PLACES
async def test_cancel_of_a_backed_off_message_passes_the_turn(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(**place)
    await loom.run(outcome="error")
    follower = await loom.submit(**place)
    assert await loom.cancel(message_id) == "cancelled"
    await expect(loom, message_id, "cancelled", "queued started retry cancelled", attempt=1, failures=1)
    await expect(loom, follower, "queued", "queued", lane="normal")
    if place == {"thread_id": "t"}:
        assert await turn(loom) == follower


@PLACES
@pytest.mark.parametrize("outcome", [*OUTCOMES, "lost"])
async def test_whatever_becomes_of_an_attempt_that_was_to_be_cancelled(
    loom: Loom, place: dict[str, Any], outcome: str
) -> None:
    message_id = await loom.submit(**place)
    follower = await loom.submit(**place)
    claim = (await loom.claim(10))[0]
    assert await loom.cancel(message_id) == "requested"
    assert await loom.cancel(message_id) == "requested"
    await expect(loom, message_id, "processing", "queued started", lane="normal", attempt=1)
    assert await loom.append((claim, 3, ["a"])) == ["ok"]
    if outcome == "lost":
        if place != {"thread_id": "t"}:
            assert await loom.cancel(follower) == "requested"
        for seconds in range(0, 14, 2):
            await loom.shift(seconds)
            await loom.beat("janitor")
        assert message_id in await loom.reap()
    else:
        assert await loom.finish(claim, outcome=outcome, chunks=["b"], first_seq=4) == ["cancelled"]
    types = "queued started chunk cancelled" if outcome == "lost" else "queued started chunk chunk cancelled"
    message = await expect(loom, message_id, "cancelled", types, attempt=1, losses=int(outcome == "lost"))
    assert (message["result"], message["error"]) == (None, None)
    if place == {"thread_id": "t"}:
        assert await turn(loom) == follower
        await expect(loom, follower, "queued", "queued", lane="normal")


async def test_a_cancellation_requested_outlives_the_last_failure(loom: Loom) -> None:
    message_id = await loom.submit(max_attempts=1)
    claim = await loom.claim_one()
    await loom.cancel(message_id)
    assert await loom.finish(claim, outcome="error") == ["cancelled"]
    await expect(loom, message_id, "cancelled", "queued started cancelled", attempt=1)
    assert await loom.lane("dlq") == []


# redrive


@PLACES
async def test_redrive_forgives_failures_and_all_losses_but_one(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(max_attempts=1, priority="low", **place)
    await lose(loom, await loom.claim_one())
    await loom.run(outcome="error")
    assert await loom.redrive(message_id) == "queued"
    types = "queued started retry started error queued"
    message = await expect(loom, message_id, "queued", types, lane="low", attempt=2, losses=1)
    assert (message["error"], message["started_at"], message["completed_at"]) == (None, None, None)
    assert (await loom.log(message_id))[-1] == ("queued", {"redriven": True})
    assert await loom.lane("dlq") == []
    if place:
        assert await turn(loom) == (None if "aside" in place else message_id)
    claim = await loom.claim_one()
    assert (claim.attempt, claim.failures, claim.losses) == (3, 0, 1)
    await loom.finish(claim)
    await expect(loom, message_id, "completed", f"{types} started done", attempt=3, losses=1)


async def failed_in_thread(loom: Loom) -> UUID:
    message_id = await loom.submit(thread_id="t", max_attempts=1, priority="low")
    await loom.run(outcome="error")
    return message_id


async def test_a_redriven_message_runs_before_an_unstarted_head(loom: Loom) -> None:
    message_id = await failed_in_thread(loom)
    head, high = await loom.submit(thread_id="t"), await loom.submit(thread_id="t", priority="high")
    assert await turn(loom) == high
    await loom.redrive(message_id)
    assert await turn(loom) == message_id
    await expect(loom, high, "queued", "queued", hold="thread")
    assert [(await loom.run())[0].message_id for _ in range(3)] == [message_id, high, head]


async def test_a_redriven_message_waits_for_a_started_head_and_runs_next(loom: Loom) -> None:
    message_id = await failed_in_thread(loom)
    head = await loom.submit(thread_id="t")
    claim = await loom.claim_one()
    high = await loom.submit(thread_id="t", priority="high")
    await loom.redrive(message_id)
    await expect(loom, message_id, "queued", "queued started error queued", hold="thread", attempt=1)
    assert await turn(loom) == head
    await loom.finish(claim)
    assert [(await loom.run())[0].message_id for _ in range(2)] == [message_id, high]


async def test_a_message_can_fail_and_be_redriven_again_and_again(loom: Loom) -> None:
    message_id = await failed_in_thread(loom)
    for _ in range(2):
        await loom.redrive(message_id)
        await loom.run(outcome="error")
    types = "queued started error queued started error queued started error"
    await expect(loom, message_id, "failed", types, lane="dlq", attempt=3, failures=1)
    await loom.redrive(message_id)
    assert await loom.cancel(message_id) == "cancelled"
    await expect(loom, message_id, "cancelled", f"{types} queued cancelled", attempt=3)
