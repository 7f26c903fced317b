"""Put the counts of stores together, which transactions write side by side."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

FOLD_SECONDS = 600.0


class FoldStores(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("fold_stores", FOLD_SECONDS)
        self._store = store

    async def run(self) -> None:
        await self._store.fold_stores()
