"""/messages/{message_id}: status, cancel, redrive."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.agents.builtin.echo import echo
from tests.support.api_answers import parse_time, positions
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.waiting import until
from treadle import Context, Rejected, agent

STATUS = (
    *("message_id", "state", "user_message", "priority", "created_at", "started_at", "completed_at", "result", "error"),
    *("queue_position", "thread_id", "agent", "attempt", "max_attempts", "run_at", "worker_id", "metadata"),
)
EXTRAS = ("queue", "hold", "usage", "aside", "parent", "asks")


class Gate:
    """An agent that signals its start and waits for the test."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.interrupted = asyncio.Event()

        @agent("gate", max_attempts=1)
        async def gate(_: Context, text: str) -> str:
            """Waits for the test."""
            self.begun.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.interrupted.set()
                raise
            return text

        self.agent = gate


# Status


async def test_a_new_message_has_every_status_field(api: Client) -> None:
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
        "aside": False,
        "parent": None,
        "asks": None,
    }


async def test_timeout_seconds_of_a_message_is_applied(start_api: StartApi, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(echo, gate.agent)
    api = await start_api()
    status = await api.settled(await api.submit("x", agent="gate", timeout_seconds=0.5))
    assert status["state"] == "failed"
    assert "0.5 seconds" in status["error"]
    assert gate.interrupted.is_set()


async def test_status_of_a_completed_message(api_with_worker: Client) -> None:
    status = await api_with_worker.settled(await api_with_worker.submit("one two"))
    assert (status["state"], status["result"], status["attempt"]) == ("completed", "one two", 1)
    assert (status["error"], status["queue_position"], status["hold"]) == (None, None, None)
    assert parse_time(status["created_at"]) <= parse_time(status["started_at"]) <= parse_time(status["completed_at"])
    [worker] = (await api_with_worker.get("/workers")).json()
    assert status["worker_id"] == worker["worker_id"]


async def test_status_of_a_running_message(start_api: StartApi, start_worker: StartWorker) -> None:
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


async def test_retries_count_up_to_max_attempts(api_with_worker: Client) -> None:
    once = await api_with_worker.settled(await api_with_worker.submit("x", metadata={"fail_times": 1}, max_attempts=2))
    assert (once["state"], once["attempt"], once["error"]) == ("completed", 2, None)
    never = await api_with_worker.settled(await api_with_worker.submit("x", metadata={"fail_times": 9}, max_attempts=2))
    assert (never["state"], never["attempt"]) == ("failed", 2)
    assert "Failing attempt 2" in never["error"]


async def test_a_message_id_in_capitals_is_accepted(api: Client) -> None:
    message_id = await api.submit("x")
    assert (await api.status(message_id.upper()))["message_id"] == message_id


# Cancel


async def test_a_queued_message_is_cancelled_at_once(api: Client) -> None:
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
async def test_a_held_message_is_cancelled_at_once(api: Client, fields: dict[str, Any]) -> None:
    await api.submit("has the turn", thread_id="t")
    message_id = await api.submit("x", **fields)
    assert (await api.delete(f"/messages/{message_id}")).status_code == 200
    assert (await api.status(message_id))["state"] == "cancelled"


async def test_cancelling_the_first_message_of_a_thread_admits_the_next(api: Client) -> None:
    first, second = await api.submit("1", thread_id="t"), await api.submit("2", thread_id="t")
    assert (await api.status(second))["hold"] == "thread"
    assert (await api.delete(f"/messages/{first}")).status_code == 200
    status = await api.status(second)
    assert (status["hold"], status["queue_position"]) == (None, 0)


async def test_a_running_message_is_cancelled_by_its_worker(start_api: StartApi, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(echo, gate.agent)
    api = await start_api()
    message_id = await api.submit("x", agent="gate")
    await gate.begun.wait()
    answer = await api.delete(f"/messages/{message_id}")
    assert answer.status_code == 202
    assert answer.json().keys() == {"message", "message_id"}
    again = await api.delete(f"/messages/{message_id}")
    assert again.status_code in {202, 409}  # requested again, or cancelled already
    status = await api.settled(message_id)
    assert (status["state"], status["result"]) == ("cancelled", None)
    assert gate.interrupted.is_set()
    assert (await api.delete(f"/messages/{message_id}")).status_code == 409


async def test_a_finished_message_cannot_be_cancelled(api_with_worker: Client) -> None:
    done = await api_with_worker.submit("x")
    failed = await api_with_worker.submit("x", metadata={"fail_times": 1}, max_attempts=1)
    for message_id, state in ((done, "completed"), (failed, "failed")):
        await api_with_worker.settled(message_id)
        answer = await api_with_worker.delete(f"/messages/{message_id}")
        assert answer.status_code == 409
        assert state in answer.json()["detail"]
        assert (await api_with_worker.status(message_id))["state"] == state


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
