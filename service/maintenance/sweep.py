"""Move the low-water marks, below which claims do not look, and bring back the lane rows below them."""

import asyncio
import math
import random

from service.maintenance.chore import Arrivals
from service.maintenance.store import MaintenanceStore

SWEEP_SECONDS = 2.0
BUSY_SWEEP_SECONDS = 0.25
BUSY_IDS = 5_000  # above its mark: so many dead rows slow each claim down, if an old snapshot keeps them
SWEEPS_PER_LOOK_BACK = 15
LOOK_BACK_SECONDS = 120.0  # several times the seconds between two looks
LOOKS_BACK_PER_WHOLE_LOOK = 20


class Sweep:
    """Sweeps more often while marks have far to go. From time to time it also looks for rows that were hidden."""

    name = "sweep"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals
        self._sweeps = 0
        self._seconds = SWEEP_SECONDS

    async def run(self) -> None:
        looks, rest = divmod(self._sweeps, SWEEPS_PER_LOOK_BACK)
        look_back = None
        if not rest:
            look_back = LOOK_BACK_SECONDS if looks % LOOKS_BACK_PER_WHOLE_LOOK else math.inf
        above, queues = await self._store.sweep(look_back)
        self._arrivals.in_lanes(queues)
        self._sweeps += 1
        self._seconds = BUSY_SWEEP_SECONDS if above >= BUSY_IDS else SWEEP_SECONDS

    async def pause(self) -> None:
        await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))
