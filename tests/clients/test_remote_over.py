"""Agents of a remote worker that ignore the end of their attempt: every further call is refused, and `except Exception`
does not catch it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.serving import serving, url_of
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from tests.support.worker_processes import lose_lease
from treadle import Context, Worker, agent

# What begins something.
CALLS: dict[str, Callable[[Any], Any]] = {
    "step": lambda context: context.step("pay", lambda: paid.append("step")),
    "send": lambda context: context.send("pay", agent="echo"),
    "publish": lambda context: context.publish("told", "pay"),
    "gather": lambda context: context.gather(),
    "input": lambda context: context.input("pay?"),
    "history": lambda context: context.history(),
    "instance": lambda context: context.instance(lambda: paid.append("instance")),
}
paid: list[str] = []


class Stubborn:
    """Agents that go on after a question that was not answered, or after their end. `refused` is what each further call
    raised."""

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self.waits = threading.Event()
        self.may_go_on = threading.Event()
        self.ended = threading.Event()

    async def wait(self, context: Context, how: str) -> None:
        """An async agent."""
        try:
            if how == "park":
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

    def wait_in_thread(self, context: Any, how: str) -> None:
        """A sync agent, which no cancellation interrupts."""
        if how == "park":
            with contextlib.suppress(BaseException):
                context.input("May I pay?")
        self.waits.set()
        self.may_go_on.wait(LIMIT_SECONDS)
        for name, call in CALLS.items():
            try:
                call(context)
                self.refused[name] = "nothing"
            except Exception:
                self.refused[name] = "Exception"
            except BaseException as error:
                self.refused[name] = type(error).__name__
        self.ended.set()


@pytest.mark.parametrize("how", ["park", "cancel", "time out", "lose"])
@pytest.mark.parametrize("way", ["async", "sync"])
async def test_an_agent_that_goes_on_after_its_end_begins_nothing(
    way: str, how: str, api_with_worker: Client, sql: Connection
) -> None:
    api, stubborn = api_with_worker, Stubborn()
    paid.clear()

    @agent("stubborn")
    async def in_loop(context: Context, text: str) -> None:
        await stubborn.wait(context, text)

    @agent("stubborn")
    def in_thread(context: Any, text: str) -> None:
        stubborn.wait_in_thread(context, text)

    async with serving(Worker(in_loop if way == "async" else in_thread, url=url_of(api))) as worker:
        message_id = await api.submit(how, agent="stubborn", thread_id="t", max_attempts=1)
        if how == "park":
            await until(lambda: api.status(message_id), lambda status: status["hold"] == "input")
        elif how == "time out":
            await wait_for(stubborn.waits)
            worker._attempts[UUID(message_id)].stop("timeout")  # as its timer does, which may be early for a thread
            assert (await api.settled(message_id))["state"] == "failed"
        elif how == "cancel":
            await wait_for(stubborn.waits)
            await api.delete(f"/messages/{message_id}")
            assert (await api.settled(message_id))["state"] == "cancelled"
        else:
            await wait_for(stubborn.waits)
            await sql.execute("update treadle.messages set max_losses = 1")
            await lose_lease(sql, UUID(message_id))
            assert (await api.settled(message_id))["state"] == "failed"
            await until(lambda: not worker._attempts)
        stubborn.may_go_on.set()
        await wait_for(stubborn.ended)
    assert stubborn.refused == dict.fromkeys(CALLS, "CancelledError")
    assert paid == []
    assert await sql.fetchval("select count(*) from treadle.messages") == 1
