"""Wait for an event with a time limit."""

import asyncio


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set within so many seconds.

    Unlike asyncio.wait_for before Python 3.12, it does not lose a cancellation that arrives at the same moment.
    """
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
