"""The state machine of docs/lifecycle.md: every arrow from submit to the end of an attempt."""

from datetime import datetime
from typing import Any

import msgspec

from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row
from tests.support.sql_states import PLACES, expect, lose_worker, thread_turn

# submit


async def test_submit_without_a_thread(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit("hello", metadata={"a": 1}, priority="low")
    message = await expect(sql_client, message_id, "queued", "queued", lane="low")
    assert (message["body"], message["metadata"], message["thread"], message["ord"]) == ("hello", {"a": 1}, None, None)
    assert await sql_client.lanes() == [[], [], [message_id]]


async def test_submit_to_an_idle_thread_takes_the_turn(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(thread_id="t")
    message = await expect(sql_client, message_id, "queued", "queued", lane="normal")
    thread = await sql_client.thread("t")
    assert (message["ord"], thread["turn"], thread["last_ord"]) == (1, message_id, 1)


async def test_submit_to_a_busy_thread_waits_for_its_turn(sql_client: SqlClient) -> None:
    head = await sql_client.submit(thread_id="t")
    message_id = await sql_client.submit(thread_id="t")
    message = await expect(sql_client, message_id, "queued", "queued", hold="thread")
    assert (message["ord"], await thread_turn(sql_client)) == (2, head)
    assert await sql_client.lanes() == [[], [head], []]


@PLACES
async def test_submit_with_a_delay_waits_until_it_is_due(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(delay_seconds=60, **place)
    message = await expect(sql_client, message_id, "queued", "queued", hold="delay")
    assert (message["run_at"] - message["created_at"]).total_seconds() == 60
    if place:
        assert await thread_turn(sql_client) is None
    await sql_client.shift_clock(59)
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 0
    await sql_client.shift_clock(60)
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 1
    await expect(sql_client, message_id, "queued", "queued", lane="normal")
    if place:
        assert await thread_turn(sql_client) == (None if "aside" in place else message_id)


async def test_the_next_submit_takes_the_turn_of_a_thread_with_only_delayed_messages(sql_client: SqlClient) -> None:
    """The thread is idle while its only message is delayed, so a message submitted later runs first."""
    delayed = await sql_client.submit(thread_id="t", delay_seconds=60)
    message_id = await sql_client.submit(thread_id="t")
    assert await thread_turn(sql_client) == message_id
    await sql_client.run()
    assert await thread_turn(sql_client) is None
    await sql_client.shift_clock(61)
    await sql_client.sql.fetchval("select admitted from treadle.admit_due()")
    assert await thread_turn(sql_client) == delayed


# claim


@PLACES
async def test_claim(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit("hello", metadata={"a": 1}, timeout_seconds=7, max_attempts=2, **place)
    claim = await sql_client.claim_one(worker="w1", lease_seconds=90)
    message = await expect(sql_client, message_id, "processing", "queued started", lane="normal", attempt=1)
    lease = await fetch_row(sql_client.sql, "select * from treadle.leases")
    assert msgspec.structs.asdict(claim) == {
        "message_id": message_id,
        "lease": lease["lease"],
        "thread": message["thread"],
        "thread_id": place.get("thread_id"),
        "ord": message["ord"],
        "queue": "default",
        "agent": "echo",
        "priority": "normal",
        "body": '"hello"',
        "metadata": '{"a": 1}',
        "attempt": 1,
        "max_attempts": 2,
        "failures": 0,
        "losses": 0,
        "timeout_seconds": 7,
        "last_seq": 2,
        "created_at": message["created_at"],
        "aside": place.get("aside", False),
        "parent": None,
        "memory": None,
        "overloaded_seconds": None,
        "depth": 0,
        "tenant": "default",
    }
    assert (lease["worker_id"], lease["last_seq"], lease["cancel_requested"]) == ("w1", 2, False)
    assert (lease["expires_at"] - lease["claimed_at"]).total_seconds() == 90
    assert (message["worker_id"], message["started_at"]) == ("w1", lease["claimed_at"])
    row = await fetch_row(sql_client.sql, "select * from pgmq.q_default_normal")
    assert (row["read_ct"], row["last_read_at"], row["vt"]) == (1, lease["claimed_at"], lease["expires_at"])
    assert (await sql_client.log(message_id))[-1] == ("started", {"attempt": 1})


# finish


@PLACES
async def test_finish_completed(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(**place)
    follower = await sql_client.submit(**place)
    claim, *rest = await sql_client.claim(10)
    assert await sql_client.finish(claim, result={"x": 1}, chunks=["a", "b"]) == ["completed"]
    types = "queued started chunk chunk done"
    message = await expect(sql_client, message_id, "completed", types, attempt=1)
    assert (message["result"], message["error"], message["usage"]) == ({"x": 1}, None, {"tokens": 7})
    assert message["completed_at"] is not None
    assert (await sql_client.log(message_id))[2:] == [
        ("chunk", {"chunk": "a"}),
        ("chunk", {"chunk": "b"}),
        ("done", None),
    ]
    if place == {"thread_id": "t"}:
        assert rest == []
        await expect(sql_client, follower, "queued", "queued", lane="normal")
        assert await thread_turn(sql_client) == follower
    else:
        assert [claim.message_id for claim in rest] == [follower]


@PLACES
async def test_finish_error_with_failures_left_backs_off_and_keeps_the_turn(
    sql_client: SqlClient, place: dict[str, Any]
) -> None:
    message_id = await sql_client.submit(**place)
    claim = await sql_client.claim_one()
    assert await sql_client.finish(claim, outcome="error", error="Oh.", delay=30, chunks=["a"]) == ["queued"]
    types = "queued started chunk retry"
    message = await expect(sql_client, message_id, "queued", types, hold="backoff", attempt=1, failures=1)
    data = (await sql_client.log(message_id))[-1][1]
    assert (data["attempt"], data["error"]) == (1, "Oh.")
    assert datetime.fromisoformat(data["retry_at"]) == message["run_at"]
    await sql_client.submit(priority="high", **place)  # must not overtake it in its thread
    await expect(sql_client, message_id, "queued", types, hold="backoff", attempt=1, failures=1)
    if place == {"thread_id": "t"}:
        assert await thread_turn(sql_client) == message_id
        assert await sql_client.claim(10) == []
    else:
        await sql_client.run()
    await sql_client.shift_clock(29)
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 0
    await sql_client.shift_clock(31)
    assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 1
    await expect(sql_client, message_id, "queued", types, lane="normal", attempt=1, failures=1)
    assert (await sql_client.claim_one()).attempt == 2
    await expect(sql_client, message_id, "processing", f"{types} started", lane="normal", attempt=2, failures=1)


@PLACES
async def test_finish_error_without_failures_left_fails_into_the_dead_letters(
    sql_client: SqlClient, place: dict[str, Any]
) -> None:
    message_id = await sql_client.submit(max_attempts=2, **place)
    await sql_client.run(outcome="error", delay=0)
    follower = await sql_client.submit(**place)
    await sql_client.sql.fetchval("select admitted from treadle.admit_due()")
    claim = next(claim for claim in await sql_client.claim(10) if claim.message_id == message_id)
    assert await sql_client.finish(claim, outcome="error", error="Oh.") == ["failed"]
    types = "queued started retry started error"
    message = await expect(sql_client, message_id, "failed", types, lane="dlq", attempt=2, failures=2)
    assert (message["error"], message["result"]) == ("Oh.", None)
    data = (await sql_client.log(message_id))[-1][1]
    assert datetime.fromisoformat(data.pop("completed_at")) == message["completed_at"]
    assert data == {"state": "failed", "error": "Oh."}
    assert await sql_client.sql.fetchval("select message from pgmq.q_default_dlq") == {
        "message_id": str(message_id),
        "thread_id": place.get("thread_id"),
        "agent": "echo",
        "reason": "Oh.",
        "attempts": 2,
        "traceback": "Traceback ...",
    }
    if place == {"thread_id": "t"}:
        assert await thread_turn(sql_client) == follower
        await expect(sql_client, follower, "queued", "queued", lane="normal")


@PLACES
async def test_finish_rejected_fails_at_once(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(**place)
    follower = await sql_client.submit(**place)
    claim = (await sql_client.claim(10))[0]
    assert await sql_client.finish(claim, outcome="rejected", error="No.") == ["failed"]
    await expect(sql_client, message_id, "failed", "queued started error", lane="dlq", attempt=1, failures=1)
    if place == {"thread_id": "t"}:
        assert await thread_turn(sql_client) == follower


async def test_a_claim_tells_for_how_long_a_service_has_been_overloaded(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=2)
    told = []
    for number, outcome in enumerate(("overloaded", "deferred", "overloaded", "error", "overloaded", "completed")):
        await sql_client.shift_clock(100 * number)
        await sql_client.sql.execute("select treadle.admit_due()")
        claim = await sql_client.claim_one()
        told.append(claim.overloaded_seconds)
        await sql_client.finish(claim, outcome=outcome, delay=50)
    assert told[0] is None
    # The backoffs count, and the time in the lane does not.
    assert [round(seconds or 0, -1) for seconds in told[1:4]] == [50, 100, 150]
    assert told[4] is None  # another end of an attempt begins the time again
    assert round(told[5] or 0, -1) == 50
    message = await sql_client.message(message_id)
    assert (message["state"], message["failures"], message["overloaded_since"]) == ("completed", 1, None)


@PLACES
async def test_finish_deferred_backs_off_uncharged_and_keeps_the_turn(
    sql_client: SqlClient, place: dict[str, Any]
) -> None:
    message_id = await sql_client.submit(max_attempts=1, **place)
    for attempt in (1, 2):
        claim = await sql_client.claim_one()
        assert claim.attempt == attempt
        assert await sql_client.finish(claim, outcome="deferred", error="No such agent here.", delay=30) == ["queued"]
        types = "queued" + " started retry" * attempt
        message = await expect(sql_client, message_id, "queued", types, hold="backoff", attempt=attempt)
        assert message["error"] == "No such agent here."
        if place == {"thread_id": "t"}:
            assert await thread_turn(sql_client) == message_id
        await sql_client.shift_clock(31 * attempt)
        assert await sql_client.sql.fetchval("select admitted from treadle.admit_due()") == 1
    await expect(sql_client, message_id, "queued", types, lane="normal", attempt=2)


@PLACES
async def test_finish_released_goes_back_to_its_lane_uncharged(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(priority="low", **place)
    claim = await sql_client.claim_one()
    assert await sql_client.finish(claim, outcome="released", error="Stopped.", chunks=["a"]) == ["queued"]
    types = "queued started chunk retry"
    message = await expect(sql_client, message_id, "queued", types, lane="low", attempt=1)
    assert message["priority"] == "low"
    new = await sql_client.submit(priority="low")
    assert await sql_client.lanes() == [[], [], [message_id, new]]
    if place == {"thread_id": "t"}:
        await sql_client.submit(priority="high", **place)
        assert await thread_turn(sql_client) == message_id
    again = (await sql_client.claim(1))[0]
    assert (again.message_id, again.attempt, again.failures, again.losses) == (message_id, 2, 0, 0)
    assert again.lease != claim.lease


# reap


@PLACES
async def test_reap_with_losses_left(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(priority="low", **place)
    claim = await sql_client.claim_one()
    await sql_client.append((claim, 3, ["a"]))
    await lose_worker(sql_client, claim)
    types = "queued started chunk retry"
    await expect(sql_client, message_id, "queued", types, lane="low", attempt=1, losses=1)
    data = (await sql_client.log(message_id))[-1][1]
    assert (data["attempt"], data["error"]) == (1, "The worker was lost.")
    if place == {"thread_id": "t"}:
        await sql_client.submit(priority="high", **place)
        assert await thread_turn(sql_client) == message_id
    assert (await sql_client.claim(1))[0].message_id == message_id


@PLACES
async def test_reap_without_losses_left_fails(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(**place)
    for _ in range(3):
        await lose_worker(sql_client, await sql_client.claim_one())
    types = "queued started retry started retry started error"
    message = await expect(sql_client, message_id, "failed", types, lane="dlq", attempt=3, losses=3)
    assert message["error"] == "The worker was lost."
    if place:
        assert await thread_turn(sql_client) is None


# An agent's own process died: its worker lives, and says so


@PLACES
async def test_finish_lost_with_losses_left(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(priority="low", max_attempts=1, **place)
    await sql_client.finish(await sql_client.claim_one(), outcome="lost", error="It died.", delay=0, chunks=["a"])
    types = "queued started chunk retry"
    message = await expect(sql_client, message_id, "queued", types, hold="backoff", attempt=1, losses=1)
    data = (await sql_client.log(message_id))[-1][1]
    assert (data["attempt"], data["error"], message["error"]) == (1, "It died.", "It died.")
    if place == {"thread_id": "t"}:
        await sql_client.submit(priority="high", **place)
        assert await thread_turn(sql_client) == message_id
    await sql_client.sql.fetchval("select admitted from treadle.admit_due()")
    assert (await sql_client.claim(1))[0].message_id == message_id


@PLACES
async def test_finish_lost_without_losses_left_fails(sql_client: SqlClient, place: dict[str, Any]) -> None:
    message_id = await sql_client.submit(**place)
    await lose_worker(sql_client, await sql_client.claim_one())
    await sql_client.finish(await sql_client.claim_one(), outcome="lost", error="It died.", delay=10, max_losses=2)
    types = "queued started retry started error"
    message = await expect(sql_client, message_id, "failed", types, lane="dlq", attempt=2, losses=2)
    assert message["error"] == "It died."
    if place:
        assert await thread_turn(sql_client) is None


async def test_losses_and_failures_are_counted_apart(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=2)
    await lose_worker(sql_client, await sql_client.claim_one())
    await sql_client.finish(await sql_client.claim_one(), outcome="error", delay=0)
    await sql_client.sql.fetchval("select admitted from treadle.admit_due()")
    await lose_worker(sql_client, await sql_client.claim_one())
    claim = await sql_client.claim_one()
    assert (claim.attempt, claim.failures, claim.losses) == (4, 1, 2)
    await sql_client.finish(claim)
    types = "queued started retry started retry started retry started done"
    await expect(sql_client, message_id, "completed", types, attempt=4, failures=1, losses=2)
