"""Delete items of stores whose time is over."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PURGE_SECONDS = 60.0


class PurgeStoreItems(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("purge_store_items", PURGE_SECONDS)
        self._store = store

    async def run(self) -> None:
        while await self._store.purge_store_items():
            pass
