"""Helpers to wait for events and to leave tasks behind."""

import asyncio
from typing import Any


async def wait_for(event: asyncio.Event, seconds: float | None) -> bool:
    """Whether the event is set within so many seconds (None: it waits for ever).

    Unlike asyncio.wait_for before Python 3.12, it does not lose a cancellation that arrives at the same moment.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def retrieve_exception(future: asyncio.Future[Any]) -> None:
    """A done callback for a future whose exception no caller may read: it prevents asyncio's warning about that."""
    if not future.cancelled():
        future.exception()
