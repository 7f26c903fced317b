"""Records whose messages fail, are lost or are cancelled: dead letters, `at_most_once`, later tries."""

import json
from typing import Any

import pytest

from tests.support.invariants import assert_consistent
from tests.support.topic_calls import Topics


async def test_a_failed_record_is_a_dead_letter_or_dropped(topics: Topics) -> None:
    await topics.subscribe("kept")
    await topics.subscribe("dropped", dead_letter=False)
    await topics.publish("t", {"value": 1, "key": "k"}, {"value": 2, "key": "k"})
    assert await topics.drain(outcome="rejected") == [1, 1, 2, 2]
    letters = await topics.sql.fetch("select body from treadle._dead_letters('default', 10)")
    assert len(letters) == 2
    assert all(letter["body"]["thread_id"] == "records/kept/k" for letter in letters)
    kept, dropped = await topics.overview("kept"), await topics.overview("dropped")
    assert [(o["failed"], o["dropped"], o["open"]) for o in (kept, dropped)] == [(2, 0, 0), (0, 2, 0)]
    failed = await topics.sql.fetch("select message_id from treadle.messages where state = 'failed'")
    for row in failed:
        await topics.client.redrive(row["message_id"])
    assert (await topics.overview("dropped"))["open"] == 2
    assert sorted(await topics.drain()) == [1, 1, 2, 2]
    assert [(await topics.overview(name))["completed"] for name in ("kept", "dropped")] == [2, 2]


@pytest.mark.parametrize("outcome", ["error", "lost", "released", "overloaded"])
async def test_at_most_once_tries_a_record_once(topics: Topics, outcome: str) -> None:
    await topics.subscribe(delivery="at_most_once")
    await topics.publish("t", 1)
    await topics.route()
    claim = await topics.client.claim_one()
    assert await topics.client.finish(claim, outcome=outcome, error=None) == ["failed"]
    row = await topics.row("select state, error from treadle.messages")
    assert row["state"] == "failed"
    assert row["error"]
    assert (await topics.overview())["failed"] == 1


async def test_deferred_records_are_tried_later(topics: Topics) -> None:
    """A worker that lacks the agent has not tried."""
    await topics.subscribe(delivery="at_most_once")
    await topics.publish("t", 1)
    await topics.route()
    assert await topics.client.finish(await topics.client.claim_one(), outcome="deferred", delay=0.0) == ["queued"]


@pytest.mark.parametrize("dead_letter", [True, False])
@pytest.mark.parametrize(
    ("outcome", "times", "limits"),
    [
        ("error", 2, {"max_attempts": 2}),
        ("rejected", 1, {"max_attempts": 2}),
        ("lost", 2, {"settings": {"max_losses": 2}}),
        ("cancelled", 1, {}),
    ],
)
async def test_what_becomes_of_a_record_that_fails(
    topics: Topics, dead_letter: bool, outcome: str, times: int, limits: dict[str, Any]
) -> None:
    """The table of dead letters in docs/topics.md. The next record of the key runs in every case."""
    await topics.client.register(limits)
    await topics.subscribe(dead_letter=dead_letter)
    await topics.publish("t", {"value": 1, "key": "k"}, {"value": 2, "key": "k"})
    await topics.route()
    for _ in range(times):
        if outcome == "cancelled":
            first = await topics.sql.fetchval("select message_id from treadle.messages where body = '1'")
            assert await topics.client.cancel(first) == "cancelled"
        else:
            claim = await topics.client.claim_one()
            assert json.loads(claim.body) == 1
            await topics.client.finish(claim, outcome=outcome, delay=0.0 if outcome == "error" else None)
            await topics.sql.execute("select treadle.admit_due(10)")
    assert await topics.handle() == [2]
    overview = await topics.overview()
    letters = await topics.sql.fetchval("select count(*) from treadle._dead_letters('default', 10)")
    failed = outcome != "cancelled"
    await assert_consistent(topics.sql)
    assert letters == (1 if failed and dead_letter else 0)
    assert (overview["failed"], overview["dropped"], overview["cancelled"], overview["completed"]) == (
        (failed and dead_letter, failed and not dead_letter, not failed, 1)
    )
    if failed:
        message_id = await topics.sql.fetchval("select message_id from treadle.messages where state = 'failed'")
        assert await topics.client.redrive(message_id) == "queued"
        assert await topics.handle() == [1]
        assert (await topics.overview())["completed"] == 2
