"""Sync agents run in threads, can do what async agents can, and do not block other agents."""

import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, settled, submit, text, types
from tests.support.waiting import LIMIT_SECONDS, wait_for
from treadle import Context, agent


async def test_sync_agents_run_in_threads_and_can_do_what_async_ones_can(
    sql: Connection, start_worker: StartWorker
) -> None:
    threads: list[threading.Thread] = []

    @agent("sync")
    def sync(context: Any, request: str) -> Any:
        threads.append(threading.current_thread())
        context.emit(f"{request} ")
        context.event("progress", {"percent": 50})
        context.emit("end")
        context.usage(tokens=7)
        context.log.debug("a line")
        exchanges = [[exchange.message, exchange.result] for exchange in context.history()]
        return {
            "exchanges": exchanges,
            "attempt": context.attempt,
            "thread": context.thread_id,
            "metadata": context.metadata,
        }

    await start_worker(sync)
    first = await run(sql, "one", agent="sync", thread_id="t")
    second = await run(sql, "two", agent="sync", thread_id="t", metadata={"a": 1})
    assert second["result"] == {
        "exchanges": [["one", first["result"]]],
        "attempt": 1,
        "thread": "t",
        "metadata": {"a": 1},
    }
    assert await types(sql, second["message_id"]) == ["queued", "started", "chunk", "progress", "chunk", "done"]
    assert await text(sql, second["message_id"]) == "two end"
    assert second["usage"] == {"tokens": 7}
    assert threading.main_thread() not in threads


async def test_a_sync_agent_does_not_block_other_agents(sql: Connection, start_worker: StartWorker) -> None:
    running, release = threading.Event(), threading.Event()

    @agent("blocking")
    def blocking(context: Any, request: str) -> str:
        running.set()
        assert release.wait(LIMIT_SECONDS)
        return "free"

    await start_worker(blocking, echo)
    message_id = await submit(sql, "x", agent="blocking")
    await wait_for(running)
    assert (await run(sql, "beside it", agent="echo"))["result"] == "beside it"
    release.set()
    assert (await settled(sql, message_id))["result"] == "free"


async def test_a_sync_agent_sees_that_it_is_cancelled(sql: Connection, start_worker: StartWorker) -> None:
    running, saw = threading.Event(), threading.Event()

    @agent("watchful")
    def watchful(context: Any, request: str) -> str:
        assert not context.cancelled
        running.set()
        while not context.cancelled:
            threading.Event().wait(0.01)
        saw.set()
        return "stopped"

    await start_worker(watchful)
    message_id = await submit(sql, "x", agent="watchful")
    await wait_for(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(saw)


async def test_a_sync_agent_that_only_emits_ends_when_it_is_cancelled(
    sql: Connection, start_worker: StartWorker
) -> None:
    running, ended = threading.Event(), threading.Event()

    @agent("babbling")
    def babbling(context: Any, request: str) -> str:
        try:
            while True:
                context.emit("x")
                running.set()
        finally:
            ended.set()

    await start_worker(babbling)
    message_id = await submit(sql, "x", agent="babbling")
    await wait_for(running)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(ended)


async def test_a_partial_of_a_coroutine_function_is_async(sql: Connection, start_worker: StartWorker) -> None:
    async def greet(greeting: str, context: Context, name: str) -> str:
        await context.emit(greeting)
        return f"{greeting}, {name}"

    await start_worker(agent("greet", description="Greets.")(functools.partial(greet, "Hello")))
    assert (await run(sql, "Ada", agent="greet"))["result"] == "Hello, Ada"


def test_a_generator_cannot_be_an_agent() -> None:
    async def stream(context: Context, request: str) -> Any:
        yield request

    def walk(context: Context, request: str) -> Iterator[str]:
        yield request

    for function in (stream, walk):
        with pytest.raises(TypeError, match="generator"):
            agent("stream")(function)
