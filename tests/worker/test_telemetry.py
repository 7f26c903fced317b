"""The moments of telemetry happen once each, and the lines of the log about messages come from them."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from service import life_log, logs, telemetry
from service.agents.builtin.echo import echo
from service.db.pool import Connection
from service.telemetry import Moment
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import settled, submit
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.worker_processes import lose_lease
from treadle import Context, RetryAfter, agent

Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Every moment of the test, by name, with what was measured."""
    noted: Heard = []

    def note(moment: Moment[Any]) -> Any:
        return lambda **measured: noted.append((moment.__name__, measured))

    stops = [moment.listen(note(moment)) for moment in telemetry.MOMENTS]
    yield noted
    for stop in stops:
        stop()


@agent("twice", max_attempts=2)
async def twice(context: Context, text: str) -> str:
    await context.emit("a")
    await context.emit("b")
    if context.attempt == 1:
        raise RetryAfter(0.01, "Not yet.")
    return text


def of(heard: Heard, name: str) -> list[dict[str, Any]]:
    return [measured for moment, measured in heard if moment == name]


async def test_each_moment_of_a_message_happens_once(
    heard: Heard, start_api: StartApi, start_worker: StartWorker, sql: Connection
) -> None:
    await start_worker(twice, echo)
    api = await start_api()
    message_id = await api.submit("hello", agent="twice")
    await api.events(message_id)
    # The worker is told that the end is written, and the stream is closed, perhaps after the client has read the end.
    await until(lambda: (len(of(heard, "finish")), len(of(heard, "stream"))) == (2, 2))
    [submitted] = of(heard, "submit")
    assert [
        (answer.state, asked.agent) for asked, answer in zip(submitted["messages"], submitted["answers"], strict=True)
    ] == [("queued", "twice")]
    assert [work.attempt for claim in of(heard, "claim") for work in claim["works"]] == [1, 2]
    assert [(run["outcome"], run["work"].attempt) for run in of(heard, "run")] == [("error", 1), ("completed", 2)]
    assert [(end["status"], end["outcome"]) for end in of(heard, "finish")] == [
        ("queued", "error"),
        ("completed", "completed"),
    ]
    assert [(retry["outcome"], retry["delay_seconds"]) for retry in of(heard, "retry")] == [("error", 0.01)]
    assert [chunk["work"].attempt for chunk in of(heard, "first_chunk")] == [1, 2]
    written = sum(call["events"] for name in ("append", "settle") for call in of(heard, name))
    assert written == await sql.fetchval("select count(*) from treadle.events where type = 'chunk'") == 4
    assert sum(call["attempts"] for call in of(heard, "settle")) == 2
    assert sum(call["messages"] for call in of(heard, "admit")) == 1
    assert [(stream["kind"], stream["opened"]) for stream in of(heard, "stream")] == [
        ("message", True),
        ("message", False),
    ]
    await until(lambda: {call["pool"] for call in of(heard, "database_call")} >= {"api", "worker", "heartbeat"})
    assert of(heard, "loss") == of(heard, "reap") == []


async def test_a_lost_lease_and_a_client_s_acts_are_moments(
    heard: Heard, api: Client, start_worker: StartWorker, sql: Connection
) -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    @agent("slow", max_attempts=1)
    async def slow(context: Context, text: str) -> str:
        begun.set()
        await end.wait()
        raise ValueError(text)

    queued = await api.submit("never runs", delay_seconds=1000)
    await api.delete(f"/messages/{queued}")
    assert [(str(act["message_id"]), act["answer"]) for act in of(heard, "cancel")] == [(queued, "cancelled")]
    await start_worker(slow)
    message_id = await submit(sql, "x", agent="slow")
    await asyncio.wait_for(begun.wait(), LIMIT_SECONDS)
    await lose_lease(sql, message_id)
    end.set()
    await settled(sql, message_id)
    await until(lambda: of(heard, "loss"))
    assert [loss["work"].attempt for loss in of(heard, "loss")] == [1]
    assert (await api.post(f"/messages/{message_id}/redrive")).status_code == 202
    assert [act["message_id"] for act in of(heard, "redrive")] == [message_id]


def test_a_listener_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(**_: Any) -> None:
        raise ValueError("broken")

    counted: list[int] = []
    stop_broken = telemetry.admit.listen(broken)
    stop = telemetry.admit.listen(lambda *, messages: counted.append(messages))
    telemetry.admit(messages=3)
    stop_broken()
    stop()
    telemetry.admit(messages=4)
    assert counted == [3]
    assert [record.message for record in caplog.records] == ["a listener of telemetry failed"]


async def test_each_event_in_the_life_of_a_message_is_a_line(
    heard: Heard, start_api: StartApi, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    logs.configure("info", "json")
    try:
        with life_log.writing():
            await start_worker(twice, echo)
            api = await start_api()
            message_id = await api.submit("xyzzy", agent="twice", thread_id="xyzzy")
            await api.settled(message_id)
            await until(lambda: len(of(heard, "finish")) == 2)  # else the worker may hear of it later than the client
            cancelled = await api.submit("xyzzy", delay_seconds=1000)
            await api.delete(f"/messages/{cancelled}")
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
    said = capsys.readouterr().err
    lines = [line for line in map(json.loads, said.splitlines()) if line["logger"] == "service.life_log"]
    told = [(line["message"], line.get("attempt")) for line in lines if line["message_id"] == message_id]
    told.remove(("submitted", None))  # by the API, which may be later than the worker
    assert told == [("started", 1), ("retried", 1), ("started", 2), ("completed", 2)]
    assert all(
        {"time", "level", "tenant", "queue", "agent"} <= line.keys()
        for line in lines
        if line["message_id"] == message_id
    )
    assert [line["message"] for line in lines if line["message_id"] == cancelled] == ["submitted", "cancelled"]
    assert "xyzzy" not in said


def test_lines_for_people_and_a_level_that_leaves_them_out(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.makeLogRecord(
        {"name": "service.life_log", "levelname": "INFO", "lines": [{"message": "started", "attempt": 1}] * 2}
    )
    text = logs._Text().format(record)
    assert [line.partition(": ")[2] for line in text.splitlines()] == ["started (attempt=1)"] * 2
    logging.getLogger("service.life_log").setLevel(logging.WARNING)
    try:
        with life_log.writing():
            telemetry.redrive(tenant="default", message_id=uuid4())
        assert capsys.readouterr().err == ""
    finally:
        logging.getLogger("service.life_log").setLevel(logging.NOTSET)


async def test_the_router_s_work_is_a_moment(heard: Heard, start_worker: StartWorker, sql: Connection) -> None:
    await start_worker(echo)
    await sql.execute("select treadle.create_topic('t'), treadle.create_subscription('s', array['t'], 'echo')")
    await sql.execute("select treadle.publish_many('t', '[{\"value\": 1}, {\"value\": 2}]')")
    await until(lambda: sum(call["messages"] for call in of(heard, "deliver")) == 2)
    assert sum(call["topics"] for call in of(heard, "route")) >= 1
