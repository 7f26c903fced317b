"""Move the low-water marks, below which claims need not look."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

SWEEP_SECONDS = 2.0
SWEEPS_PER_WHOLE_SWEEP = 15  # a whole one reads the lanes from their start


class Sweep(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("sweep", SWEEP_SECONDS)
        self._store = store
        self._sweeps = 0

    async def run(self) -> None:
        self._sweeps += 1
        await self._store.sweep(self._sweeps % SWEEPS_PER_WHOLE_SWEEP == 0)
