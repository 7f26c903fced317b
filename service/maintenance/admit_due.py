"""Admit messages whose delay or backoff has ended."""

import asyncio
import heapq
import time

from service import telemetry
from service.maintenance.chore import Arrivals
from service.maintenance.store import MaintenanceStore
from service.waiting import wait_for

ADMIT_BATCH_MESSAGES = 1000
SOON_SECONDS = 1.0  # the lookout finds later ones
REST_SECONDS = 30.0  # it runs that often in any case


class AdmitDue:
    """Runs at the ends of the backoffs that this worker knows of, and when the lookout finds a message that is due."""

    name = "admit_due"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals
        self._due: list[float] = []  # a heap of times by time.monotonic()
        self._called = False
        self._changed = asyncio.Event()

    def run_in(self, seconds: float) -> None:
        """Run after so many seconds, if that is soon."""
        if seconds < SOON_SECONDS:
            heapq.heappush(self._due, time.monotonic() + seconds)
            self._changed.set()

    def run_now(self) -> None:
        """A message is due."""
        self._called = True
        self._changed.set()

    async def run(self) -> None:
        while True:
            admitted, queues = await self._store.admit_due(ADMIT_BATCH_MESSAGES)
            if admitted:
                telemetry.admit(messages=admitted)
            self._arrivals.in_lanes(queues)
            if admitted < ADMIT_BATCH_MESSAGES:
                return

    async def pause(self) -> None:
        while not self._called:
            self._changed.clear()
            if not await wait_for(self._changed, self._seconds_to_next()):
                break
        self._called = False
        while self._due and self._due[0] <= time.monotonic():
            heapq.heappop(self._due)

    def _seconds_to_next(self) -> float:
        if not self._due:
            return REST_SECONDS
        return min(REST_SECONDS, max(0.0, self._due[0] - time.monotonic()))
