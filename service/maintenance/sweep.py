"""Move the low-water marks, below which claims do not look, and bring back the lane rows below them."""

import asyncio
import math
import random
import time

from service.maintenance.chore import Arrivals
from service.maintenance.store import MaintenanceStore

SWEEP_SECONDS = 2.0
RAISE_SECONDS = 0.05  # between two moves of the marks, at least
# The marks are moved when about so many ids are above them: beside an old snapshot each claim reads these rows.
IDS_ABOVE = 250
MANY_IDS_ABOVE = 5_000  # or as many rows are to be brought back: the next call is a whole sweep
LOOK_EVERY_SECONDS = 25.0
LOOK_BACK_SECONDS = 120.0  # several times the seconds between two looks
LOOKS_BACK_PER_WHOLE_LOOK = 20


class Sweep:
    """Sweeps every two seconds. The faster rows leave the lanes, the more often it moves the marks between two sweeps.
    From time to time it also looks for rows that were hidden."""

    name = "sweep"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals
        self._looks = 0
        self._looked_at = -math.inf
        self._seconds = SWEEP_SECONDS
        self._swept_at = -math.inf
        self._above = 0

    async def run(self) -> None:
        if self._above < MANY_IDS_ABOVE and time.monotonic() - self._swept_at < SWEEP_SECONDS * 0.8:
            self._above = await self._store.raise_marks()
        else:
            self._swept_at = time.monotonic()
            self._above = await self._sweep()
        self._seconds = min(SWEEP_SECONDS, max(RAISE_SECONDS, self._seconds * IDS_ABOVE / max(self._above, 1)))

    async def pause(self) -> None:
        await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))

    async def _sweep(self) -> int:
        """Returns how many ids the first rows were above their marks, at most."""
        look_back, now = None, time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_SECONDS:
            look_back = LOOK_BACK_SECONDS if self._looks % LOOKS_BACK_PER_WHOLE_LOOK else math.inf
        above, queues = await self._store.sweep(look_back)
        if look_back is not None:
            self._looked_at = now
            self._looks += 1
        self._arrivals.in_lanes(queues)
        return above
