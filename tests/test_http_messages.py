"""/messages: submit, batch, status, cancel, redrive, Idempotency-Key."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from conftest import Client, StartApi, StartWorker, until

from service.agents.contract import Context, Rejected, agent
from service.agents.echo import echo
from service.db.pool import Connection, Database

ACCEPTED = {"message_id", "state", "queue_position", "created_at", "thread_id"}
STATUS = (
    *("message_id", "state", "user_message", "priority", "created_at", "started_at", "completed_at", "result", "error"),
    *("queue_position", "thread_id", "agent", "attempt", "max_attempts", "run_at", "worker_id", "metadata"),
)
EXTRAS = ("queue", "hold", "usage")


def moment(text: str) -> datetime:
    """A time as the API writes it: with its zone."""
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo is not None
    return parsed


async def positions(api: Client, *ids: str) -> list[int | None]:
    return [(await api.status(message_id))["queue_position"] for message_id in ids]


class Gate:
    """An agent that says when it has begun, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.interrupted = asyncio.Event()

        @agent("gate", max_attempts=1)
        async def gate(_: Context, text: str) -> str:
            """Waits to be let go."""
            self.begun.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.interrupted.set()
                raise
            return text

        self.agent = gate


# Submit


async def test_submit_says_where_the_message_is(api: Client) -> None:
    answer = await api.post("/messages", json={"message": "Hello"})
    assert answer.status_code == 202
    assert answer.headers["content-type"] == "application/json"
    accepted = answer.json()
    assert accepted.keys() == ACCEPTED
    assert UUID(accepted["message_id"]).version == 7
    assert (accepted["state"], accepted["queue_position"], accepted["thread_id"]) == ("queued", 0, None)
    moment(accepted["created_at"])
    assert answer.headers["location"] == f"/messages/{accepted['message_id']}/status"
    found = await api.get(answer.headers["location"])
    assert found.status_code == 200
    assert {name: found.json()[name] for name in ACCEPTED} == accepted


async def test_status_has_every_field_and_null_where_nothing_is_so_yet(api: Client) -> None:
    status = await api.status(await api.submit("Hello"))
    assert list(status) == [*STATUS, *EXTRAS]
    created = status["created_at"]
    assert status == {
        "message_id": status["message_id"],
        "state": "queued",
        "user_message": "Hello",
        "priority": "normal",
        "created_at": created,
        "started_at": None,
        "completed_at": None,
        "result": None,
        "error": None,
        "queue_position": 0,
        "thread_id": None,
        "agent": "echo",
        "attempt": 0,
        "max_attempts": 3,
        "run_at": created,
        "worker_id": None,
        "metadata": {},
        "queue": "default",
        "hold": None,
        "usage": None,
    }


async def test_submit_takes_every_field(api: Client) -> None:
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
    assert moment(status["run_at"]) - moment(status["created_at"]) == timedelta(seconds=90.5)
    assert (status["state"], status["hold"]) == ("queued", "delay")


async def test_the_timeout_is_the_messages_own(start_api: StartApi, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(echo, gate.agent)
    api = await start_api()
    status = await api.settled(await api.submit("x", agent="gate", timeout_seconds=0.05))
    assert status["state"] == "failed"
    assert "0.05 seconds" in status["error"]
    assert gate.interrupted.is_set()


async def test_positions_count_from_zero(api: Client) -> None:
    ids = [await api.submit(str(n)) for n in range(4)]
    assert await positions(api, *ids) == [0, 1, 2, 3]


async def test_the_answers_position_is_the_statuss(api: Client) -> None:
    for n in range(4):
        assert (await api.post("/messages", json={"message": str(n)})).json()["queue_position"] == n
    high = (await api.post("/messages", json={"message": "now", "priority": "high"})).json()
    low = (await api.post("/messages", json={"message": "later", "priority": "low"})).json()
    normal = (await api.post("/messages", json={"message": "then", "priority": "normal"})).json()
    assert [high["queue_position"], low["queue_position"], normal["queue_position"]] == [0, 5, 5]
    ids = [high["message_id"], normal["message_id"], low["message_id"]]
    assert await positions(api, *ids) == [0, 5, 6]


async def test_positions_in_a_thread_are_in_its_order(api: Client) -> None:
    first, second, third = [await api.submit(str(n), thread_id="t") for n in range(3)]
    assert await positions(api, first, second, third) == [0, 1, 2]
    assert (await api.status(second))["hold"] == "thread"
    urgent = await api.submit("urgent", thread_id="t", priority="high")
    assert await positions(api, urgent, first, second, third) == [0, 1, 2, 3]


async def test_a_delayed_message_has_no_place_and_runs_when_it_is_due(running: Client) -> None:
    late = await running.submit("late", delay_seconds=3600)
    soon = await running.submit("soon", delay_seconds=0.2)
    now = await running.submit("now")
    assert await positions(running, late) == [None]
    status = await running.settled(soon)
    assert moment(status["started_at"]) >= moment(status["run_at"])
    assert (await running.settled(now))["state"] == "completed"
    assert (await running.status(late))["state"] == "queued"


async def test_status_of_a_completed_message(running: Client) -> None:
    status = await running.settled(await running.submit("one two"))
    assert (status["state"], status["result"], status["attempt"]) == ("completed", "one two", 1)
    assert (status["error"], status["queue_position"], status["hold"]) == (None, None, None)
    assert moment(status["created_at"]) <= moment(status["started_at"]) <= moment(status["completed_at"])
    [worker] = (await running.get("/workers")).json()
    assert status["worker_id"] == worker["worker_id"]


async def test_status_while_it_runs(start_api: StartApi, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(echo, gate.agent)
    api = await start_api()
    message_id = await api.submit("x", agent="gate")
    await gate.begun.wait()
    status = await api.status(message_id)
    assert (status["state"], status["attempt"], status["queue_position"]) == ("processing", 1, None)
    assert status["worker_id"] is not None
    assert status["started_at"] is not None
    assert status["completed_at"] is None
    gate.open.set()
    assert (await api.settled(message_id))["result"] == "x"


async def test_results_errors_and_usage_are_in_the_status(start_api: StartApi, start_worker: StartWorker) -> None:
    class Answer(msgspec.Struct):
        words: list[str]

    @agent("split")
    async def split(context: Context, text: str) -> Answer:
        context.usage(tokens=2)
        return Answer(text.split())

    @agent("reject")
    async def reject(_: Context, text: str) -> str:
        raise Rejected(f"No: {text}")

    @agent("nothing")
    async def nothing(_: Context, text: str) -> None:
        """Answers nothing."""

    await start_worker(echo, split, reject, nothing)
    api = await start_api()
    done = await api.settled(await api.submit("a b", agent="split"))
    assert (done["result"], done["usage"]) == ({"words": ["a", "b"]}, {"tokens": 2})
    failed = await api.settled(await api.submit("this", agent="reject"))
    assert (failed["state"], failed["attempt"], failed["result"]) == ("failed", 1, None)
    assert "No: this" in failed["error"]
    assert failed["completed_at"] is not None
    empty = await api.settled(await api.submit("x", agent="nothing"))
    assert (empty["state"], empty["result"]) == ("completed", None)


async def test_retries_count_up_to_max_attempts(running: Client) -> None:
    once = await running.settled(await running.submit("x", metadata={"fail_times": 1}, max_attempts=2))
    assert (once["state"], once["attempt"], once["error"]) == ("completed", 2, None)
    never = await running.settled(await running.submit("x", metadata={"fail_times": 9}, max_attempts=2))
    assert (never["state"], never["attempt"]) == ("failed", 2)
    assert "Failing attempt 2" in never["error"]


async def test_an_id_may_be_written_in_capitals(api: Client) -> None:
    message_id = await api.submit("x")
    assert (await api.status(message_id.upper()))["message_id"] == message_id


# Batch


async def test_a_batch_is_accepted_in_its_order(api: Client) -> None:
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


async def test_a_batch_of_one_and_of_a_thousand(api: Client, sql: Connection) -> None:
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
    """The last message is refused by the database, long after the first ones were looked at."""
    messages = [{"message": str(n), "thread_id": "t"} for n in range(100)] + [{"message": "x", "agent": "nobody"}]
    answer = await api.post("/messages/batch", json={"messages": messages}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 422
    for table in ("messages", "threads", "events", "idempotency"):
        assert await sql.fetchval(f"select count(*) from treadle.{table}") == 0
    answer = await api.post("/messages/batch", json={"messages": messages[:-1]}, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202  # the refused request did not use the key up


async def test_bad_and_good_submits_of_one_moment_do_not_meet(api: Client, sql: Connection) -> None:
    """Submits of one moment share a transaction; the refusal of one is its own."""
    bodies = [{"message": str(n)} | ({"agent": "nobody"} if n % 5 == 0 else {}) for n in range(50)]
    answers = await asyncio.gather(*(api.post("/messages", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [422 if n % 5 == 0 else 202 for n in range(50)]
    kept = {row["body"] for row in await sql.fetch("select body from treadle.messages")}
    assert kept == {str(n) for n in range(50) if n % 5}
    for n, answer in enumerate(answers):
        if n % 5:
            assert (await api.status(answer.json()["message_id"]))["user_message"] == str(n)


# Cancel


async def test_a_queued_message_is_cancelled_now(api: Client) -> None:
    first, second = await api.submit("1"), await api.submit("2")
    answer = await api.delete(f"/messages/{first}")
    assert answer.status_code == 200
    assert answer.json().keys() == {"message", "message_id"}
    assert answer.json()["message_id"] == first
    status = await api.status(first)
    assert (status["state"], status["queue_position"], status["result"]) == ("cancelled", None, None)
    assert status["completed_at"] is not None
    assert await positions(api, second) == [0]


@pytest.mark.parametrize("fields", [{"delay_seconds": 60}, {"thread_id": "t"}])
async def test_a_held_message_is_cancelled_now(api: Client, fields: dict[str, Any]) -> None:
    await api.submit("has the turn", thread_id="t")
    message_id = await api.submit("x", **fields)
    assert (await api.delete(f"/messages/{message_id}")).status_code == 200
    assert (await api.status(message_id))["state"] == "cancelled"


async def test_a_cancelled_head_gives_its_thread_to_the_next(api: Client) -> None:
    first, second = await api.submit("1", thread_id="t"), await api.submit("2", thread_id="t")
    assert (await api.status(second))["hold"] == "thread"
    assert (await api.delete(f"/messages/{first}")).status_code == 200
    status = await api.status(second)
    assert (status["hold"], status["queue_position"]) == (None, 0)


async def test_a_running_message_is_cancelled_soon(start_api: StartApi, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(echo, gate.agent)
    api = await start_api()
    message_id = await api.submit("x", agent="gate")
    await gate.begun.wait()
    answer = await api.delete(f"/messages/{message_id}")
    assert answer.status_code == 202
    assert answer.json().keys() == {"message", "message_id"}
    again = await api.delete(f"/messages/{message_id}")
    assert again.status_code in {202, 409}  # still asked for, or done already
    status = await api.settled(message_id)
    assert (status["state"], status["result"]) == ("cancelled", None)
    assert gate.interrupted.is_set()
    assert (await api.delete(f"/messages/{message_id}")).status_code == 409


async def test_what_is_over_is_not_cancelled(running: Client) -> None:
    done = await running.submit("x")
    failed = await running.submit("x", metadata={"fail_times": 1}, max_attempts=1)
    for message_id, state in ((done, "completed"), (failed, "failed")):
        await running.settled(message_id)
        answer = await running.delete(f"/messages/{message_id}")
        assert answer.status_code == 409
        assert state in answer.json()["detail"]
        assert (await running.status(message_id))["state"] == state


# Redrive


async def test_a_failed_message_is_redriven(start_api: StartApi, start_worker: StartWorker) -> None:
    mended = asyncio.Event()

    @agent("broken", max_attempts=2)
    async def broken(context: Context, text: str) -> str:
        if not mended.is_set():
            raise RuntimeError(f"broken at attempt {context.attempt}")
        return text

    await start_worker(echo, broken)
    api = await start_api()
    message_id = await api.submit("x", agent="broken")
    assert (await api.settled(message_id))["attempt"] == 2
    answer = await api.post(f"/messages/{message_id}/redrive")
    assert (answer.status_code, answer.json()) == (202, {"message_id": message_id, "state": "queued"})
    failed = await until(lambda: api.status(message_id), lambda s: s["state"] == "failed" and s["attempt"] == 4)
    assert "attempt 4" in failed["error"]  # its two failures were forgiven, its attempts keep counting
    mended.set()
    assert (await api.post(f"/messages/{message_id}/redrive")).status_code == 202
    status = await api.settled(message_id)
    assert (status["state"], status["attempt"], status["result"], status["error"]) == ("completed", 5, "x", None)
    assert (await api.get("/queues/default/dead-letters")).json()["dead_letters"] == []


async def test_only_a_failed_message_is_redriven(start_api: StartApi, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(echo, gate.agent)
    api = await start_api()
    running = await api.submit("x", agent="gate")
    done, cancelled, waiting = await api.submit("x"), await api.submit("x", delay_seconds=60), await api.submit("x")
    await api.delete(f"/messages/{cancelled}")
    await api.settled(done)
    await api.settled(waiting)
    held = await api.submit("x", delay_seconds=60)
    await gate.begun.wait()
    for message_id, state in ((running, "processing"), (done, "completed"), (cancelled, "cancelled"), (held, "queued")):
        answer = await api.post(f"/messages/{message_id}/redrive")
        assert answer.status_code == 409
        assert state in answer.json()["detail"]
        assert (await api.status(message_id))["state"] == state
    gate.open.set()


# Idempotency-Key

Post = Callable[..., Awaitable[httpx.Response]]


def keyed(api: Client, key: str, body: Any, path: str = "/messages") -> Awaitable[httpx.Response]:
    content = body if isinstance(body, str) else json.dumps(body)
    return api.post(path, content=content, headers={"Content-Type": "application/json", "Idempotency-Key": key})


def same(answers: list[httpx.Response]) -> bool:
    """Whether all say the same of the same message."""
    return len({(answer.status_code, answer.text, answer.headers.get("location")) for answer in answers}) == 1


async def count(sql: Connection) -> int:
    return int(await sql.fetchval("select count(*) from treadle.messages"))


async def test_a_repeat_gets_the_first_answer(running: Client, sql: Connection) -> None:
    body = {"message": "x", "metadata": {"a": 1, "b": [2, 3]}, "thread_id": "t"}
    first = await keyed(running, "k", body)
    assert first.status_code == 202
    assert first.headers["location"] == f"/messages/{first.json()['message_id']}/status"
    await running.settled(first.json()["message_id"])
    again = [await keyed(running, "k", body) for _ in range(3)]
    assert same([first, *again])
    assert await count(sql) == 1
    other = await keyed(running, "another key", body)
    assert other.json()["message_id"] != first.json()["message_id"]


async def test_the_same_request_written_otherwise_is_a_repeat(api: Client, sql: Connection) -> None:
    answers = [
        await keyed(api, "k", body)
        for body in (
            '{"message":"é","metadata":{"a":1,"b":{"c":2,"d":3}}}',
            '{ "message" : "\\u00e9",\n "metadata" : { "a" : 1, "b" : { "c" : 2, "d" : 3 } } }',
            '{"metadata":{"b":{"d":3,"c":2},"a":1},"message":"é"}',
            '{"message":"é","metadata":{"a":1,"b":{"c":2,"d":3}},"priority":"normal","thread_id":null}',
        )
    ]
    assert answers[0].status_code == 202
    assert same(answers)
    assert await count(sql) == 1


async def test_another_request_under_the_same_key_is_422(api: Client, sql: Connection) -> None:
    first = await keyed(api, "k", {"message": "x"})
    for body in ({"message": "y"}, {"message": "x", "priority": "high"}, {"message": "x", "thread_id": "t"}):
        answer = await keyed(api, "k", body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "Idempotency-Key" in answer.json()["detail"]
    assert (await keyed(api, "k", {"messages": [{"message": "x"}]}, "/messages/batch")).status_code == 422
    assert await count(sql) == 1
    assert same([first, await keyed(api, "k", {"message": "x"})])


async def test_a_batch_takes_a_key(api: Client, sql: Connection) -> None:
    body = {"messages": [{"message": str(n), "thread_id": "t"} for n in range(20)]}
    first = await keyed(api, "k", body, "/messages/batch")
    assert first.status_code == 202
    assert len(first.json()["messages"]) == 20
    assert same([first, await keyed(api, "k", body, "/messages/batch")])
    assert await count(sql) == 20
    body["messages"].reverse()
    assert (await keyed(api, "k", body, "/messages/batch")).status_code == 422
    assert await count(sql) == 20


async def test_a_key_counts_on_every_replica(start_api: StartApi, agents: Any, sql: Connection) -> None:
    await agents()
    one, other = await start_api(), await start_api()
    answers = await asyncio.gather(*(keyed(api, "k", {"message": "x"}) for api in (one, other) * 5))
    assert {answer.status_code for answer in answers} == {202}
    assert same(answers)
    assert await count(sql) == 1


async def test_a_key_is_forgotten_after_a_day(api: Client, sql: Connection) -> None:
    first = await keyed(api, "k", {"message": "x"})
    await sql.execute("update treadle.idempotency set created_at = created_at - interval '23 hours'")
    assert same([first, await keyed(api, "k", {"message": "x"})])
    await sql.execute("update treadle.idempotency set created_at = created_at - interval '2 hours'")
    other = await keyed(api, "k", {"message": "y"})
    assert other.status_code == 202
    assert same([other, await keyed(api, "k", {"message": "y"})])
    assert await count(sql) == 2


async def waiting_for_locks(database: Database) -> int:
    """How many sessions wait for a lock now (asked outside any transaction: inside one the answer stands still)."""
    return int(
        await database.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
    )


async def test_concurrent_repeats_wait_for_the_first(api: Client, sql: Connection, database: Database) -> None:
    """The first request is held up by its thread, which we lock; the others by their key, which it has."""
    await api.submit("before", thread_id="t")
    body = {"message": "x", "thread_id": "t"}
    async with sql.transaction():
        await sql.execute("select from treadle.threads where thread_id = 't' for update")
        first = asyncio.create_task(keyed(api, "k", body))
        await until(lambda: waiting_for_locks(database), lambda n: n == 1)
        others = [asyncio.create_task(keyed(api, "k", body)) for _ in range(3)]
        await until(lambda: waiting_for_locks(database), lambda n: n == 4)
    answers = await asyncio.gather(first, *others)
    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert accepted
    assert same(accepted)
    for answer in refused:  # only where this machine was so slow that their patience ended
        assert answer.status_code == 409
        assert int(answer.headers["retry-after"]) >= 1
    assert await count(sql) == 2


async def test_a_repeat_while_the_first_is_under_way_is_409_in_the_end(api: Client, sql: Connection) -> None:
    async with sql.transaction():
        await sql.execute(
            "insert into treadle.idempotency (tenant, key, request_hash, answer, created_at)"
            " values ('default', 'k', 'x', null, now())"
        )
        answer = await keyed(api, "k", {"message": "x"})
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        assert await keyed(api, str(uuid4()), {"message": "x"})
        await sql.execute("delete from treadle.idempotency where key = 'k'")
    answer = await keyed(api, "k", {"message": "x"})
    assert answer.status_code == 202
    assert await count(sql) == 2


async def test_a_client_that_leaves_does_not_take_its_message_along(
    api: Client, sql: Connection, database: Database
) -> None:
    """The request is under way in the database when its client goes; the repeat finds what came of it."""
    await api.submit("before", thread_id="t")
    body = {"message": "x", "thread_id": "t"}
    async with sql.transaction():
        await sql.execute("select from treadle.threads where thread_id = 't' for update")
        leaving = asyncio.create_task(keyed(api, "k", body))
        await until(lambda: waiting_for_locks(database), lambda n: n == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
    answer = await keyed(api, "k", body)
    assert answer.status_code == 202
    assert same([answer, await keyed(api, "k", body)])
    assert await count(sql) == 2
