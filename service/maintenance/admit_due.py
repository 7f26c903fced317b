"""Admit messages whose delay or backoff has ended."""

import asyncio
import heapq
import time

from service import telemetry
from service.maintenance.chore import Arrivals
from service.maintenance.store import MaintenanceStore
from service.waiting import wait_for

ADMIT_BATCH_MESSAGES = 1000


class AdmitDue:
    """Runs at the ends of the backoffs that this worker knows of, and every `poll_interval` seconds for all others."""

    name = "admit_due"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals, poll_interval: float) -> None:
        self._store = store
        self._arrivals = arrivals
        self._poll_interval = poll_interval
        self._due: list[float] = []  # a heap of times by time.monotonic()
        self._changed = asyncio.Event()

    def run_in(self, seconds: float) -> None:
        """Run after so many seconds, if that is sooner than the next poll."""
        if seconds < self._poll_interval:
            heapq.heappush(self._due, time.monotonic() + seconds)
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
        while True:
            self._changed.clear()
            if not await wait_for(self._changed, self._seconds_to_next()):
                break
        while self._due and self._due[0] <= time.monotonic():
            heapq.heappop(self._due)

    def _seconds_to_next(self) -> float:
        if not self._due:
            return self._poll_interval
        return min(self._poll_interval, max(0.0, self._due[0] - time.monotonic()))
