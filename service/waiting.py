"""Helpers to wait for events, to wake many at their times, and to leave tasks behind."""

import asyncio
import math
import time
from typing import Any, Protocol

ALARM_ACCURACY_SECONDS = 0.05


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


class Sleeper(Protocol):
    def ring(self, moment: int) -> None: ...


class Alarms:
    """Rings for many sleepers at a moment with one timer: a timer for each wait of each would cost as much as all the
    rest of the wait. Moments are numbered, ALARM_ACCURACY_SECONDS apart."""

    def __init__(self) -> None:
        self._sleepers: dict[int, dict[Sleeper, None]] = {}

    def set(self, moment: int, sleeper: Sleeper) -> None:
        if (others := self._sleepers.get(moment)) is not None:
            others[sleeper] = None
            return
        self._sleepers[moment] = {sleeper: None}
        asyncio.get_running_loop().call_later(max(0.0, -seconds_since(moment)), self._ring, moment)

    def unset(self, moment: int, sleeper: Sleeper) -> None:
        """Let it sleep."""
        if (sleepers := self._sleepers.get(moment)) is not None:
            sleepers.pop(sleeper, None)

    def _ring(self, moment: int) -> None:
        for sleeper in self._sleepers.pop(moment):
            sleeper.ring(moment)


def alarm_moment(at: float) -> int:
    """The first moment that is not before this time of time.monotonic()."""
    return math.ceil(at / ALARM_ACCURACY_SECONDS)


def seconds_since(moment: int) -> float:
    return time.monotonic() - moment * ALARM_ACCURACY_SECONDS
