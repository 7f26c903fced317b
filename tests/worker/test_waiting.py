"""wait_for loses neither the event nor a cancellation."""

import asyncio

import pytest

from service.waiting import wait_for


async def test_it_returns_whether_the_event_was_set() -> None:
    event = asyncio.Event()
    assert not await wait_for(event, 0.001)
    event.set()
    assert await wait_for(event, 10)
    assert await wait_for(event, 0)


async def test_a_cancellation_that_arrives_with_the_event_is_not_lost() -> None:
    """asyncio.wait_for of Python 3.11 returns, and its caller would continue for ever."""
    event = asyncio.Event()
    task = asyncio.create_task(wait_for(event, 10))
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
