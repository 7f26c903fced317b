"""Let autovacuum pass for a minute over tables whose dead rows an old snapshot keeps."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PACE_SECONDS = 10.0  # how often autovacuum of a private PostgreSQL looks


class PaceVacuum(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("pace_vacuum", PACE_SECONDS)
        self._store = store

    async def run(self) -> None:
        await self._store.pace_vacuum()
