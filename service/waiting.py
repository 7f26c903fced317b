"""Waiting for an event, but not for ever."""

import asyncio


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event comes within so many seconds.

    Unlike asyncio.wait_for before Python 3.12, it loses no cancellation that comes at the same moment.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
