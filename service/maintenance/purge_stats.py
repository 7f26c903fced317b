"""Delete rows of the statistics: minutes after 8 days, hours after 400."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PURGE_SECONDS = 600.0


class PurgeStats(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("purge_stats", PURGE_SECONDS)
        self._store = store

    async def run(self) -> None:
        while await self._store.purge_stats():
            pass
