"""The readers of a run: they read streams as a browser's EventSource does, and record the events that they saw."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from faults.history import History, Reading, Seen
from faults.http import Take, read

EARLY_LEAVER_SHARE = 0.3  # of the connections; their clients leave after a few events
RECONNECT_PAUSE_SECONDS, THREAD_RECONNECT_PAUSE_SECONDS = 0.3, 1.0
FINAL_EVENTS = {"done", "error", "cancelled"}

Start = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Readers:
    """Each reader reconnects with the last id that it saw. `start` runs a coroutine as a task of the run."""

    def __init__(self, ports: Sequence[int], history: History, rng: random.Random, start: Start) -> None:
        self._ports = ports
        self._history = history
        self._rng = rng
        self._start = start
        self.following = 0  # messages that are being read

    def read_thread(self, thread_id: str) -> Reading:
        reading = Reading(None, thread_id)
        self._history.readings.append(reading)
        self._start(self._read(f"/threads/{thread_id}/stream", reading)).set_name("thread")
        return reading

    def behind(self, ends: Mapping[str, int]) -> bool:
        """Whether a reader of a thread has not seen the end of its log."""
        return any(
            (reading.events[-1].position if reading.events else 0) < ends.get(reading.thread_id, 0)
            for reading in self._history.readings
            if reading.thread_id
        )

    async def read_message(self, message_id: str) -> None:
        reading = Reading(message_id, None)
        self._history.readings.append(reading)
        self.following += 1
        await self._read(f"/messages/{message_id}/stream", reading)
        self.following -= 1

    async def _read(self, path: str, reading: Reading) -> None:
        """Read to the end. EventSource gives up on any answer but 200 and 204, so any other answer is an error.

        A thread has no end, and is 404 before its first event.
        """
        while not reading.over:
            port = self._rng.choice(self._ports)
            last_id = reading.events[-1].id if reading.events else None
            with contextlib.suppress(OSError):
                answer = await read(port, path, last_id, partial(_opened, reading, port), self._taker(reading))
                if answer.status == 204 and not reading.thread_id:
                    reading.over = True
                elif answer.status != 200 and (answer.status != 404 or not reading.thread_id or reading.events):
                    self._history.add_client_error(
                        f"the stream {path} was answered {answer.status}: {answer.body[:200]!r}"
                    )
            reading.port = None
            if not reading.over:
                await asyncio.sleep(THREAD_RECONNECT_PAUSE_SECONDS if reading.thread_id else RECONNECT_PAUSE_SECONDS)

    def _taker(self, reading: Reading) -> Take:
        """A function that takes the events of one connection; some readers leave early."""
        left = self._rng.randint(1, 8) if self._rng.random() < EARLY_LEAVER_SHARE else None

        def take(event: Seen) -> bool:
            nonlocal left
            reading.events.append(event)
            if reading.message_id is not None and event.type in FINAL_EVENTS:
                reading.over = True
            if left is not None:
                left -= 1
            return not reading.over and left != 0

        return take


def _opened(reading: Reading, port: int) -> None:
    reading.connections += 1
    reading.port = port
