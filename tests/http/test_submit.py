"""POST /messages and /messages/batch: the response, and the state of the messages."""

import asyncio
from datetime import timedelta
from uuid import UUID

from service.db.pool import Connection
from tests.support.api_answers import parse_time, positions
from tests.support.api_client import Client

ACCEPTED = {"message_id", "state", "queue_position", "created_at", "thread_id"}


# One


async def test_submit_returns_the_message_and_its_location(api: Client) -> None:
    answer = await api.post("/messages", json={"message": "Hello"})
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    accepted = answer.json()
    assert accepted.keys() == ACCEPTED
    assert UUID(accepted["message_id"]).version == 7
    assert (accepted["state"], accepted["queue_position"], accepted["thread_id"]) == ("queued", 0, None)
    parse_time(accepted["created_at"])
    assert answer.headers["location"] == f"/messages/{accepted['message_id']}/status"
    found = await api.get(answer.headers["location"])
    assert found.status_code == 200
    assert {name: found.json()[name] for name in ACCEPTED} == accepted


async def test_submit_stores_every_field(api: Client) -> None:
    fields = {
        "message": 'Grüße, \U0001f9f5 "quoted" \\ and\nnew lines\ttoo',
        "priority": "low",
        "thread_id": "a thread",
        "agent": "echo",
        "metadata": {"a": [1, 2.5, None, True, {"b": "c"}], "ü": "\U0001f9f5"},
        "delay_seconds": 90.5,
        "max_attempts": 7,
        "timeout_seconds": 12.25,
    }
    answer = await api.post("/messages", json=fields)
    assert answer.status_code == 202
    accepted = answer.json()
    assert (accepted["thread_id"], accepted["queue_position"]) == ("a thread", None)
    status = await api.status(accepted["message_id"])
    assert status["user_message"] == fields["message"]
    for name in ("priority", "thread_id", "agent", "metadata", "max_attempts"):
        assert status[name] == fields[name]
    assert parse_time(status["run_at"]) - parse_time(status["created_at"]) == timedelta(seconds=90.5)
    assert (status["state"], status["hold"]) == ("queued", "delay")


async def test_positions_count_from_zero(api: Client) -> None:
    ids = [await api.submit(str(n)) for n in range(4)]
    assert await positions(api, *ids) == [0, 1, 2, 3]


async def test_submit_and_status_return_the_same_position(api: Client) -> None:
    for n in range(4):
        assert (await api.post("/messages", json={"message": str(n)})).json()["queue_position"] == n
    high = (await api.post("/messages", json={"message": "now", "priority": "high"})).json()
    low = (await api.post("/messages", json={"message": "later", "priority": "low"})).json()
    normal = (await api.post("/messages", json={"message": "then", "priority": "normal"})).json()
    assert [high["queue_position"], low["queue_position"], normal["queue_position"]] == [0, 5, 5]
    ids = [high["message_id"], normal["message_id"], low["message_id"]]
    assert await positions(api, *ids) == [0, 5, 6]


async def test_positions_follow_the_order_of_a_thread(api: Client) -> None:
    first, second, third = [await api.submit(str(n), thread_id="t") for n in range(3)]
    assert await positions(api, first, second, third) == [0, 1, 2]
    assert (await api.status(second))["hold"] == "thread"
    urgent = await api.submit("urgent", thread_id="t", priority="high")
    assert await positions(api, urgent, first, second, third) == [0, 1, 2, 3]


async def test_a_delayed_message_has_no_position_and_runs_when_due(api_with_worker: Client) -> None:
    late = await api_with_worker.submit("late", delay_seconds=3600)
    soon = await api_with_worker.submit("soon", delay_seconds=0.2)
    now = await api_with_worker.submit("now")
    assert await positions(api_with_worker, late) == [None]
    status = await api_with_worker.settled(soon)
    assert parse_time(status["started_at"]) >= parse_time(status["run_at"])
    assert (await api_with_worker.settled(now))["state"] == "completed"
    assert (await api_with_worker.status(late))["state"] == "queued"


# Batch


async def test_a_batch_is_accepted_in_order(api: Client) -> None:
    await api.submit("before")
    answer = await api.post(
        "/messages/batch",
        json={
            "messages": [
                {"message": "0"},
                {"message": "1", "thread_id": "t"},
                {"message": "2", "priority": "high"},
                {"message": "3", "delay_seconds": 60},
                {"message": "4", "thread_id": "t"},
            ]
        },
    )
    assert answer.status_code == 202
    assert answer.json().keys() == {"messages"}
    accepted = answer.json()["messages"]
    assert all(one.keys() == ACCEPTED for one in accepted)
    assert [one["thread_id"] for one in accepted] == [None, "t", None, None, "t"]
    assert [one["queue_position"] for one in accepted] == [2, 3, 0, None, 4]
    statuses = [await api.status(one["message_id"]) for one in accepted]
    assert [status["user_message"] for status in statuses] == ["0", "1", "2", "3", "4"]
    assert [status["queue_position"] for status in statuses] == [2, 3, 0, None, 4]


async def test_batches_of_one_and_of_a_thousand_messages(api: Client, sql: Connection) -> None:
    answer = await api.post("/messages/batch", json={"messages": [{"message": "x"}]})
    assert [one["queue_position"] for one in answer.json()["messages"]] == [0]
    messages = [{"message": str(n), "thread_id": f"t{n % 7}" if n % 2 else None} for n in range(1000)]
    answer = await api.post("/messages/batch", json={"messages": messages})
    assert answer.status_code == 202
    accepted = answer.json()["messages"]
    assert len({one["message_id"] for one in accepted}) == 1000
    rows = await sql.fetch("select message_id, body from treadle.messages")
    bodies = {str(row["message_id"]): row["body"] for row in rows}
    assert [bodies[one["message_id"]] for one in accepted] == [str(n) for n in range(1000)]
    assert len(bodies) == 1001


async def test_a_batch_is_all_or_nothing(api: Client, sql: Connection) -> None:
    """Only the database can refuse the last message of this batch."""
    messages = [{"message": str(n), "thread_id": "t"} for n in range(100)] + [{"message": "x", "agent": "unknown"}]
    answer = await api.post("/messages/batch", json={"messages": messages}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422
    for table in ("messages", "threads", "events", "idempotency"):
        assert await sql.fetchval(f"select count(*) from treadle.{table}") == 0
    answer = await api.post("/messages/batch", json={"messages": messages[:-1]}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202  # the refused request did not use the key


async def test_a_refused_submit_does_not_affect_concurrent_submits(api: Client, sql: Connection) -> None:
    """Concurrent submits share a transaction; a refusal concerns only its own submit."""
    bodies = [{"message": str(n)} | ({"agent": "unknown"} if n % 5 == 0 else {}) for n in range(50)]
    answers = await asyncio.gather(*(api.post("/messages", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [422 if n % 5 == 0 else 202 for n in range(50)]
    kept = {row["body"] for row in await sql.fetch("select body from treadle.messages")}
    assert kept == {str(n) for n in range(50) if n % 5}
    for n, answer in enumerate(answers):
        if n % 5:
            assert (await api.status(answer.json()["message_id"]))["user_message"] == str(n)
