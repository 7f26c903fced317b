"""The state machine (DESIGN, section 3): every arrow, and every arrow that must not be."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from invariants import assert_consistent
from loom import Loom, weaving

from service.db.pool import Connection

PLACES = pytest.mark.parametrize("place", [{}, {"thread_id": "t"}, {"thread_id": "t", "aside": True}], ids=str)
OUTCOMES = ("completed", "error", "rejected", "deferred", "released")  # of a finish


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator[Loom]:
    async with weaving(sql, dsn) as loom:
        yield loom


async def expect(
    loom: Loom,
    message_id: UUID,
    state: str,
    types: str,
    *,
    hold: str | None = None,
    lane: str | None = None,
    attempt: int = 0,
    failures: int = 0,
    losses: int = 0,
) -> asyncpg.Record:
    """The message stands like this, `types` are its events, and the whole database agrees."""
    message = await loom.message(message_id)
    found = {name: message[name] for name in ("state", "hold", "lane", "attempt", "failures", "losses")}
    wanted = {
        "state": state,
        "hold": hold,
        "lane": lane,
        "attempt": attempt,
        "failures": failures,
        "losses": losses,
    }
    assert found == wanted
    assert " ".join(await loom.types(message_id)) == types
    await assert_consistent(loom.sql)
    return message


async def refused(loom: Loom, state: str, call: Any) -> str:
    """The call raises this SQLSTATE and changes nothing; returns the sentence."""
    before = await loom.everything()
    with pytest.raises(asyncpg.PostgresError) as raised:
        await call
    assert raised.value.sqlstate == state
    assert await loom.everything() == before
    return str(raised.value)


async def turn(loom: Loom) -> UUID | None:
    return (await loom.thread("t"))["turn"]


# submit


async def test_submit_without_a_thread(loom: Loom) -> None:
    message_id = await loom.submit("hello", metadata={"a": 1}, priority="low")
    message = await expect(loom, message_id, "queued", "queued", lane="low")
    assert (message["body"], message["metadata"], message["thread"], message["ord"]) == ("hello", {"a": 1}, None, None)
    assert await loom.lanes() == [[], [], [message_id]]


async def test_submit_to_an_idle_thread_takes_the_turn(loom: Loom) -> None:
    message_id = await loom.submit(thread_id="t")
    message = await expect(loom, message_id, "queued", "queued", lane="normal")
    thread = await loom.thread("t")
    assert (message["ord"], thread["turn"], thread["last_ord"]) == (1, message_id, 1)


async def test_submit_to_a_busy_thread_waits_for_its_turn(loom: Loom) -> None:
    head = await loom.submit(thread_id="t")
    message_id = await loom.submit(thread_id="t")
    message = await expect(loom, message_id, "queued", "queued", hold="thread")
    assert (message["ord"], await turn(loom)) == (2, head)
    assert await loom.lanes() == [[], [head], []]


@PLACES
async def test_submit_with_a_delay_waits_until_it_is_due(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(delay_seconds=60, **place)
    message = await expect(loom, message_id, "queued", "queued", hold="delay")
    assert (message["run_at"] - message["created_at"]).total_seconds() == 60
    if place:
        assert await turn(loom) is None
    await loom.shift(59)
    assert await loom.sql.fetchval("select treadle.admit_due()") == 0
    await loom.shift(60)
    assert await loom.sql.fetchval("select treadle.admit_due()") == 1
    await expect(loom, message_id, "queued", "queued", lane="normal")
    if place:
        assert await turn(loom) == (None if "aside" in place else message_id)


# claim


@PLACES
async def test_claim(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit("hello", metadata={"a": 1}, timeout_seconds=7, max_attempts=2, **place)
    claim = await loom.claim_one(worker="w1", lease_seconds=90)
    message = await expect(loom, message_id, "processing", "queued started", lane="normal", attempt=1)
    lease = await loom.sql.fetchrow("select * from treadle.leases")
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
    }
    assert (lease["worker_id"], lease["last_seq"], lease["cancel_requested"]) == ("w1", 2, False)
    assert (lease["expires_at"] - lease["claimed_at"]).total_seconds() == 90
    assert (message["worker_id"], message["started_at"]) == ("w1", lease["claimed_at"])
    row = await loom.sql.fetchrow("select * from pgmq.q_default_normal")
    assert (row["read_ct"], row["last_read_at"], row["vt"]) == (1, lease["claimed_at"], lease["expires_at"])
    assert (await loom.log(message_id))[-1] == ("started", {"attempt": 1})


# finish


@PLACES
async def test_finish_completed(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(**place)
    follower = await loom.submit(**place)
    claim, *rest = await loom.claim(10)
    assert await loom.finish(claim, result={"x": 1}, chunks=["a", "b"]) == ["completed"]
    types = "queued started chunk chunk done"
    message = await expect(loom, message_id, "completed", types, attempt=1)
    assert (message["result"], message["error"], message["usage"]) == ({"x": 1}, None, {"tokens": 7})
    assert message["completed_at"] is not None
    assert (await loom.log(message_id))[2:] == [("chunk", {"chunk": "a"}), ("chunk", {"chunk": "b"}), ("done", None)]
    if place == {"thread_id": "t"}:
        assert rest == []
        await expect(loom, follower, "queued", "queued", lane="normal")
        assert await turn(loom) == follower
    else:
        assert [claim.message_id for claim in rest] == [follower]


@PLACES
async def test_finish_error_with_failures_left_backs_off_and_keeps_the_turn(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(**place)
    claim = await loom.claim_one()
    assert await loom.finish(claim, outcome="error", error="Oh.", delay=30, chunks=["a"]) == ["queued"]
    types = "queued started chunk retry"
    message = await expect(loom, message_id, "queued", types, hold="backoff", attempt=1, failures=1)
    data = (await loom.log(message_id))[-1][1]
    assert (data["attempt"], data["error"]) == (1, "Oh.")
    assert datetime.fromisoformat(data["retry_at"]) == message["run_at"]
    await loom.submit(priority="high", **place)  # must not overtake it in its thread
    await expect(loom, message_id, "queued", types, hold="backoff", attempt=1, failures=1)
    if place == {"thread_id": "t"}:
        assert await turn(loom) == message_id
        assert await loom.claim(10) == []
    else:
        await loom.run()
    await loom.shift(29)
    assert await loom.sql.fetchval("select treadle.admit_due()") == 0
    await loom.shift(31)
    assert await loom.sql.fetchval("select treadle.admit_due()") == 1
    await expect(loom, message_id, "queued", types, lane="normal", attempt=1, failures=1)
    assert (await loom.claim_one()).attempt == 2
    await expect(loom, message_id, "processing", f"{types} started", lane="normal", attempt=2, failures=1)


@PLACES
async def test_finish_error_without_failures_left_fails_into_the_dead_letters(
    loom: Loom, place: dict[str, Any]
) -> None:
    message_id = await loom.submit(max_attempts=2, **place)
    await loom.run(outcome="error", delay=0)
    follower = await loom.submit(**place)
    await loom.sql.fetchval("select treadle.admit_due()")
    claim = next(claim for claim in await loom.claim(10) if claim.message_id == message_id)
    assert await loom.finish(claim, outcome="error", error="Oh.") == ["failed"]
    types = "queued started retry started error"
    message = await expect(loom, message_id, "failed", types, lane="dlq", attempt=2, failures=2)
    assert (message["error"], message["result"]) == ("Oh.", None)
    data = (await loom.log(message_id))[-1][1]
    assert datetime.fromisoformat(data.pop("completed_at")) == message["completed_at"]
    assert data == {"state": "failed", "error": "Oh."}
    assert await loom.sql.fetchval("select message from pgmq.q_default_dlq") == {
        "message_id": str(message_id),
        "thread_id": place.get("thread_id"),
        "agent": "echo",
        "reason": "Oh.",
        "attempts": 2,
        "traceback": "Traceback ...",
    }
    if place == {"thread_id": "t"}:
        assert await turn(loom) == follower
        await expect(loom, follower, "queued", "queued", lane="normal")


@PLACES
async def test_finish_rejected_fails_at_once(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(**place)
    follower = await loom.submit(**place)
    claim = (await loom.claim(10))[0]
    assert await loom.finish(claim, outcome="rejected", error="No.") == ["failed"]
    await expect(loom, message_id, "failed", "queued started error", lane="dlq", attempt=1, failures=1)
    if place == {"thread_id": "t"}:
        assert await turn(loom) == follower


@PLACES
async def test_finish_deferred_backs_off_uncharged_and_keeps_the_turn(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(max_attempts=1, **place)
    for attempt in (1, 2):
        claim = await loom.claim_one()
        assert claim.attempt == attempt
        assert await loom.finish(claim, outcome="deferred", error="No such agent here.", delay=30) == ["queued"]
        types = "queued" + " started retry" * attempt
        message = await expect(loom, message_id, "queued", types, hold="backoff", attempt=attempt)
        assert message["error"] == "No such agent here."
        if place == {"thread_id": "t"}:
            assert await turn(loom) == message_id
        await loom.shift(31 * attempt)
        assert await loom.sql.fetchval("select treadle.admit_due()") == 1
    await expect(loom, message_id, "queued", types, lane="normal", attempt=2)


@PLACES
async def test_finish_released_goes_back_to_the_high_lane_uncharged(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(priority="low", **place)
    claim = await loom.claim_one()
    assert await loom.finish(claim, outcome="released", error="Stopped.", chunks=["a"]) == ["queued"]
    types = "queued started chunk retry"
    message = await expect(loom, message_id, "queued", types, lane="high", attempt=1)
    assert message["priority"] == "low"
    assert await loom.lanes() == [[message_id], [], []]
    if place == {"thread_id": "t"}:
        await loom.submit(priority="high", **place)
        assert await turn(loom) == message_id
    again = (await loom.claim(1))[0]
    assert (again.message_id, again.attempt, again.failures, again.losses) == (message_id, 2, 0, 0)
    assert again.lease != claim.lease


# reap


async def lose(loom: Loom, claim: Any, *, worker: str = "w") -> None:
    """Let the worker of a claim be dead beyond doubt: it is unknown, its lease old, and the janitor steady."""
    clock = await loom.sql.fetchval("select extract(epoch from treadle.clock() - clock_timestamp())::integer")
    for seconds in range(0, 14, 2):
        await loom.shift(clock + seconds)
        await loom.beat("janitor")
    assert await loom.reap() == {claim.message_id: None}


@PLACES
async def test_reap_with_losses_left(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(priority="low", **place)
    claim = await loom.claim_one()
    await loom.append((claim, 3, ["a"]))
    await lose(loom, claim)
    types = "queued started chunk retry"
    await expect(loom, message_id, "queued", types, lane="high", attempt=1, losses=1)
    data = (await loom.log(message_id))[-1][1]
    assert (data["attempt"], data["error"]) == (1, "The worker was lost.")
    if place == {"thread_id": "t"}:
        await loom.submit(priority="high", **place)
        assert await turn(loom) == message_id
    assert (await loom.claim(1))[0].message_id == message_id


@PLACES
async def test_reap_without_losses_left_fails(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(**place)
    for _ in range(3):
        await lose(loom, await loom.claim_one())
    types = "queued started retry started retry started error"
    message = await expect(loom, message_id, "failed", types, lane="dlq", attempt=3, losses=3)
    assert message["error"] == "The worker was lost."
    if place:
        assert await turn(loom) is None


async def test_losses_and_failures_are_counted_apart(loom: Loom) -> None:
    message_id = await loom.submit(max_attempts=2)
    await lose(loom, await loom.claim_one())
    await loom.finish(await loom.claim_one(), outcome="error", delay=0)
    await loom.sql.fetchval("select treadle.admit_due()")
    await lose(loom, await loom.claim_one())
    claim = await loom.claim_one()
    assert (claim.attempt, claim.failures, claim.losses) == (4, 1, 2)
    await loom.finish(claim)
    types = "queued started retry started retry started retry started done"
    await expect(loom, message_id, "completed", types, attempt=4, failures=1, losses=2)


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
async def test_redrive_forgives_failures_and_losses_but_counts_attempts(loom: Loom, place: dict[str, Any]) -> None:
    message_id = await loom.submit(max_attempts=1, priority="low", **place)
    await lose(loom, await loom.claim_one())
    await loom.run(outcome="error")
    assert await loom.redrive(message_id) == "queued"
    types = "queued started retry started error queued"
    message = await expect(loom, message_id, "queued", types, lane="low", attempt=2)
    assert (message["error"], message["started_at"], message["completed_at"]) == (None, None, None)
    assert (await loom.log(message_id))[-1] == ("queued", {"redriven": True})
    assert await loom.lane("dlq") == []
    if place:
        assert await turn(loom) == (None if "aside" in place else message_id)
    claim = await loom.claim_one()
    assert (claim.attempt, claim.failures, claim.losses) == (3, 0, 0)
    await loom.finish(claim)
    await expect(loom, message_id, "completed", f"{types} started done", attempt=3)


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


# What must not be

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


async def test_a_turn_that_nobody_can_take_is_taken_by_the_next_submit(loom: Loom) -> None:
    """Only a delayed message is there: the thread is idle, and goes on with whoever comes."""
    delayed = await loom.submit(thread_id="t", delay_seconds=60)
    message_id = await loom.submit(thread_id="t")
    assert await turn(loom) == message_id
    await loom.run()
    assert await turn(loom) is None
    await loom.shift(61)
    await loom.sql.fetchval("select treadle.admit_due()")
    assert await turn(loom) == delayed
