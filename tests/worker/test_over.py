"""Code that ignores the end of its attempt: every further call is refused, and `except Exception` does not catch it."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.messages import overview, settled, submit, types
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from treadle import Context, agent

Calls = dict[str, Callable[[Any], Any]]

# What begins something.
CALLS: Calls = {
    "step": lambda context: context.step("pay", lambda: paid.append("step")),
    "send": lambda context: context.send("pay", agent="echo"),
    "gather": lambda context: context.gather(),
    "input": lambda context: context.input("pay?"),
    "instance": lambda context: context.instance(lambda: paid.append("instance")),
    "history": lambda context: context.history(),
    "incoming": lambda context: context.incoming(),
    "under_way": lambda context: context.under_way(),
}
paid: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_paid() -> None:
    paid.clear()


class Stubborn:
    """Agents that go on after a question that was not answered, or after a cancellation. `refused` is what each further
    call raised."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.waits = threading.Event()
        self.ended = threading.Event()

    async def wait(self, context: Context, text: str) -> None:
        """An async agent."""
        try:
            if text == "park":
                await context.input("May I pay?")
            self.waits.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for name, call in CALLS.items():
                try:
                    await call(context)
                    self.refused[name] = "nothing"
                except Exception:
                    self.refused[name] = "Exception"
                except BaseException as error:
                    self.refused[name] = type(error).__name__
        self.ended.set()

    def wait_in_thread(self, context: Any, text: str) -> None:
        """A sync agent."""
        try:
            if text == "park":
                context.input("May I pay?")
            self.waits.set()
            while True:
                context.emit("x")
        except asyncio.CancelledError:
            for name, call in CALLS.items():
                try:
                    call(context)
                    self.refused[name] = "nothing"
                except Exception:
                    self.refused[name] = "Exception"
                except BaseException as error:
                    self.refused[name] = type(error).__name__
        self.ended.set()


@pytest.mark.parametrize("text", ["park", "cancel"])
@pytest.mark.parametrize("way", ["async", "sync"])
async def test_an_agent_that_goes_on_after_its_end_begins_nothing(
    way: str, text: str, sql: Connection, start_worker: StartWorker
) -> None:
    stubborn = Stubborn()

    @agent("stubborn")
    async def in_loop(context: Context, text: str) -> None:
        await stubborn.wait(context, text)

    @agent("stubborn")
    def in_thread(context: Any, text: str) -> None:
        stubborn.wait_in_thread(context, text)

    await start_worker(in_loop if way == "async" else in_thread, echo)
    message_id = await submit(sql, text, agent="stubborn", thread_id="t")
    if text == "park":
        await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    else:
        await wait_for(stubborn.waits)
        await sql.fetchval("select treadle.cancel($1)", message_id)
        assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(stubborn.ended)
    assert stubborn.refused == dict.fromkeys(CALLS, "CancelledError")
    assert paid == []
    assert "step" not in await types(sql, message_id)
    assert await sql.fetchval("select count(*) from treadle.messages") == 1


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_what_an_agent_leaves_behind_begins_nothing(way: str, sql: Connection, start_worker: StartWorker) -> None:
    """A task or a thread that outlives a completed attempt."""
    refused: list[str] = []
    over, done = threading.Event(), threading.Event()

    async def pay_later(context: Context) -> None:
        await wait_for(over)
        try:
            await context.step("late", lambda: paid.append("late"))
        except asyncio.CancelledError:
            refused.append("CancelledError")
        done.set()

    def pay_later_in_thread(context: Any) -> None:
        over.wait(LIMIT_SECONDS)
        try:
            context.step("late", lambda: paid.append("late"))
        except asyncio.CancelledError:
            refused.append("CancelledError")
        done.set()

    tasks = []

    @agent("leaves")
    async def in_loop(context: Context, text: str) -> None:
        tasks.append(asyncio.create_task(pay_later(context)))

    @agent("leaves")
    def in_thread(context: Any, text: str) -> None:
        threading.Thread(target=pay_later_in_thread, args=[context], daemon=True).start()

    await start_worker(in_loop if way == "async" else in_thread)
    message_id = await submit(sql, "x", agent="leaves")
    assert (await settled(sql, message_id))["state"] == "completed"
    over.set()
    await wait_for(done)
    assert (refused, paid) == (["CancelledError"], [])
