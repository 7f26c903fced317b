"""Wait for a fact or for an event, with a limit far above what it should take."""

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

LIMIT_SECONDS = 60.0  # twelve processes that start on two busy cores have taken more than twenty


async def until(
    question: Callable[[], Any], wanted: Callable[[Any], bool] = bool, seconds: float = LIMIT_SECONDS
) -> Any:
    """Ask `question` (a function, sync or async) until its answer is as wanted; returns the answer.

    Fails the test after `seconds`.
    """
    answer = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                answer = question()
                if inspect.isawaitable(answer):
                    answer = await answer
                if wanted(answer):
                    return answer
                await asyncio.sleep(0.02)
    pytest.fail(f"not within {seconds} seconds; last answer: {answer!r}")


def wait_until(question: Callable[[], Any], seconds: float = LIMIT_SECONDS) -> None:
    """The same where no event loop runs, for the state of another process: wait until the answer is true."""
    deadline = time.monotonic() + seconds
    while not question():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} seconds")
        time.sleep(0.01)


async def let_the_loop_read() -> None:
    """Let other tasks of this loop read what was just written to a socket on loopback."""
    for _ in range(5):
        await asyncio.sleep(0)


async def wait_for(event: asyncio.Event | threading.Event) -> None:
    """Wait until the event is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LIMIT_SECONDS):
            if isinstance(event, asyncio.Event):
                await event.wait()
            else:
                await _in_own_thread(event.wait)
            return
    pytest.fail(f"not within {LIMIT_SECONDS} seconds")


async def _in_own_thread(wait: Callable[[float], bool]) -> None:
    """Wait there, so that no thread of a worker is taken."""
    executor = ThreadPoolExecutor(1)
    try:
        await asyncio.get_running_loop().run_in_executor(executor, wait, LIMIT_SECONDS)
    finally:
        executor.shutdown(wait=False)
