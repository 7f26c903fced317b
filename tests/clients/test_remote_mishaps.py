"""What agents of a remote worker raise and return that no server takes: each attempt ends, and the worker goes on."""

import asyncio
from typing import Any

import pytest

from tests.support.api_client import Client
from tests.support.waiting import until
from treadle import Context, Worker, agent


class Speechless(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


RAISED: dict[str, BaseException] = {
    "speechless": Speechless(),
    "half a pair": ValueError("a\ud800b\x00c"),
    "cancelled": asyncio.CancelledError(),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
}
ERRORS = {
    "speechless": "Speechless: ",
    "half a pair": "ValueError: a\ufffdb\ufffdc",
    "cancelled": "The agent cancelled itself.",
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt: ",
    "another loop": "RuntimeError: the context belongs to the event loop that runs the agent",
}


@agent("odd", max_attempts=1)
async def odd(context: Context, how: str) -> Any:
    if how in RAISED:
        raise RAISED[how]
    if how == "another loop":
        await asyncio.to_thread(asyncio.run, context.emit("x"))
    await context.emit("a\ud800b\x00c")
    await context.event("note", {"text": "\udfff"})
    context.usage(note="\ud800")
    context.memory["said"] = "\x00"
    stored = await context.step("one", lambda: {"a\x00": "\ud800"})
    return [stored, "\ud800\x00"]


@pytest.fixture
async def api(api_with_worker: Client) -> Any:
    worker = Worker(odd, url=str(api_with_worker.base_url))
    task = asyncio.create_task(worker.serve())
    await until(worker.registered.is_set)
    yield api_with_worker
    worker.stop()
    await task


async def test_whatever_an_agent_raises_ends_its_attempt(api: Client) -> None:
    for how, error in ERRORS.items():
        status = await api.settled(await api.submit(how, agent="odd"))
        assert (status["state"], status["attempt"]) == ("failed", 1)
        assert status["error"].startswith(error)


async def test_texts_that_postgresql_does_not_take_are_cleaned(api: Client) -> None:
    """As in a worker of the installation."""
    message_id = await api.submit("talk", agent="odd", thread_id="t")
    status = await api.settled(message_id)
    assert status["result"] == [{"a\ufffd": "\ufffd"}, "\ufffd\ufffd"]
    assert status["usage"] == {"note": "\ufffd"}
    said = {event.type: event.data for event in await api.events(message_id)}
    assert said["chunk"]["chunk"] == "a\ufffdb\ufffdc"
    assert said["note"] == {"text": "\ufffd"}
    assert (await api.get("/threads/t")).json()["memory"] == {"said": "\ufffd"}
