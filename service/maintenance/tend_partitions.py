"""Create the partitions of the coming days, drop the empty ones past retention."""

from service.config import Settings
from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PARTITIONS_SECONDS = 3600.0


class TendPartitions(Periodic):
    def __init__(self, settings: Settings, store: MaintenanceStore) -> None:
        super().__init__("tend_partitions", PARTITIONS_SECONDS)
        self._retention_hours = max(settings.retention_hours, settings.dead_letter_retention_hours)
        self._store = store

    async def run(self) -> None:
        await self._store.tend_partitions(self._retention_hours)
