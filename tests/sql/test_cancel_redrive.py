"""The state machine: every transition by cancel and redrive."""

from typing import Any
from uuid import UUID

import pytest

from tests.support.sql_client import OUTCOMES, SqlClient
from tests.support.sql_states import PLACES, expect, lose_worker, thread_turn

# cancel


@PLACES
async def test_cancel_of_a_queued_message(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(**place)
    follower = await sql_client.submit(**place)
    assert await sql_client.cancel(message_id) == "cancelled"
    message = await expect(sql_client, message_id, "cancelled", "queued cancelled")
    assert message["completed_at"] is not None
    assert (await sql_client.log(message_id))[-1] == ("cancelled", {"state": "cancelled"})
    await expect(sql_client, follower, "queued", "queued", lane="normal")
    if place == {"thread_id": "t"}:
        assert await thread_turn(sql_client) == follower


async def test_cancel_of_a_message_behind_its_thread(sql_client: SqlClient) -> None:
    head, message_id, follower = [await sql_client.submit(thread_id="t") for _ in range(3)]
    assert await sql_client.cancel(message_id) == "cancelled"
    await expect(sql_client, message_id, "cancelled", "queued cancelled")
    assert await thread_turn(sql_client) == head
    await sql_client.run()
    assert await thread_turn(sql_client) == follower


@PLACES
async def test_cancel_of_a_delayed_message(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(delay_seconds=60, **place)
    assert await sql_client.cancel(message_id) == "cancelled"
    await expect(sql_client, message_id, "cancelled", "queued cancelled")
    await sql_client.shift_clock(61)
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 0


@PLACES
async def test_cancel_of_a_backed_off_message_passes_the_turn(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(**place)
    await sql_client.run(outcome="error")
    follower = await sql_client.submit(**place)
    assert await sql_client.cancel(message_id) == "cancelled"
    await expect(sql_client, message_id, "cancelled", "queued started retry cancelled", attempt=1, failures=1)
    await expect(sql_client, follower, "queued", "queued", lane="normal")
    if place == {"thread_id": "t"}:
        assert await thread_turn(sql_client) == follower


@PLACES
@pytest.mark.parametrize("outcome", [*OUTCOMES, "lost"])
async def test_any_outcome_of_an_attempt_ends_as_cancelled_after_a_request(
    sql_client: SqlClient, place: dict[str, Any], outcome: str
) -> None:
    message_id = await sql_client.submit(**place)
    follower = await sql_client.submit(**place)
    claim = (await sql_client.claim(10))[0]
    assert await sql_client.cancel(message_id) == "requested"
    assert await sql_client.cancel(message_id) == "requested"
    await expect(sql_client, message_id, "processing", "queued started", lane="normal", attempt=1)
    assert await sql_client.append((claim, 3, ["a"])) == ["ok"]
    if outcome == "lost":
        if place != {"thread_id": "t"}:
            assert await sql_client.cancel(follower) == "requested"
        for seconds in range(0, 14, 2):
            await sql_client.shift_clock(seconds)
            await sql_client.heartbeat("janitor")
        assert message_id in await sql_client.reap()
    else:
        assert await sql_client.finish(claim, outcome=outcome, chunks=["b"], first_seq=4) == ["cancelled"]
    types = "queued started chunk cancelled" if outcome == "lost" else "queued started chunk chunk cancelled"
    message = await expect(sql_client, message_id, "cancelled", types, attempt=1, losses=int(outcome == "lost"))
    assert (message["result"], message["error"]) == (None, None)
    if place == {"thread_id": "t"}:
        assert await thread_turn(sql_client) == follower
        await expect(sql_client, follower, "queued", "queued", lane="normal")


async def test_a_requested_cancellation_wins_over_the_last_failure(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=1)
    claim = await sql_client.claim_one()
    await sql_client.cancel(message_id)
    assert await sql_client.finish(claim, outcome="error") == ["cancelled"]
    await expect(sql_client, message_id, "cancelled", "queued started cancelled", attempt=1)
    assert await sql_client.lane("dlq") == []


# redrive


@PLACES
async def test_redrive_forgives_failures_and_all_losses_but_one(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(max_attempts=1, priority="low", **place)
    await lose_worker(sql_client, await sql_client.claim_one())
    await sql_client.run(outcome="error")
    assert await sql_client.redrive(message_id) == "queued"
    types = "queued started retry started error queued"
    message = await expect(sql_client, message_id, "queued", types, lane="low", attempt=2, losses=1)
    assert (message["error"], message["started_at"], message["completed_at"]) == (None, None, None)
    assert (await sql_client.log(message_id))[-1] == ("queued", {"redriven": True})
    assert await sql_client.lane("dlq") == []
    if place:
        assert await thread_turn(sql_client) == (None if "aside" in place else message_id)
    claim = await sql_client.claim_one()
    assert (claim.attempt, claim.failures, claim.losses) == (3, 0, 1)
    await sql_client.finish(claim)
    await expect(sql_client, message_id, "completed", f"{types} started done", attempt=3, losses=1)


async def failed_in_thread(sql_client: SqlClient) -> UUID:
    message_id = await sql_client.submit(thread_id="t", max_attempts=1, priority="low")
    await sql_client.run(outcome="error")
    return message_id


async def test_a_redriven_message_runs_before_an_unstarted_head(sql_client: SqlClient) -> None:
    message_id = await failed_in_thread(sql_client)
    head, high = await sql_client.submit(thread_id="t"), await sql_client.submit(thread_id="t", priority="high")
    assert await thread_turn(sql_client) == high
    await sql_client.redrive(message_id)
    assert await thread_turn(sql_client) == message_id
    await expect(sql_client, high, "queued", "queued", hold="thread")
    assert [(await sql_client.run())[0].message_id for _ in range(3)] == [message_id, high, head]


async def test_a_redriven_message_waits_for_a_started_head_and_runs_next(sql_client: SqlClient) -> None:
    message_id = await failed_in_thread(sql_client)
    head = await sql_client.submit(thread_id="t")
    claim = await sql_client.claim_one()
    high = await sql_client.submit(thread_id="t", priority="high")
    await sql_client.redrive(message_id)
    await expect(sql_client, message_id, "queued", "queued started error queued", hold="thread", attempt=1)
    assert await thread_turn(sql_client) == head
    await sql_client.finish(claim)
    assert [(await sql_client.run())[0].message_id for _ in range(2)] == [message_id, high]


async def test_a_message_can_fail_and_be_redriven_again_and_again(sql_client: SqlClient) -> None:
    message_id = await failed_in_thread(sql_client)
    for _ in range(2):
        await sql_client.redrive(message_id)
        await sql_client.run(outcome="error")
    types = "queued started error queued started error queued started error"
    await expect(sql_client, message_id, "failed", types, lane="dlq", attempt=3, failures=1)
    await sql_client.redrive(message_id)
    assert await sql_client.cancel(message_id) == "cancelled"
    await expect(sql_client, message_id, "cancelled", f"{types} queued cancelled", attempt=3)
