"""Delete the records past the retention of their topics, and those of deleted topics."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PURGE_SECONDS = 60.0


class PurgeRecords(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("purge_records", PURGE_SECONDS)
        self._store = store

    async def run(self) -> None:
        while await self._store.purge_records():
            pass
