"""Wait for a fact or for an event, with a limit far above what it should take."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest


async def until(question: Callable[[], Any], wanted: Callable[[Any], bool] = bool, seconds: float = 20.0) -> Any:
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


async def wait_for(event: asyncio.Event | threading.Event) -> None:
    """Wait until the event is set."""
    await until(event.is_set)
