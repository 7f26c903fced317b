"""Fold the counters of queues and subscriptions, which are written as deltas."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

FOLD_SECONDS = 1.0


class FoldCounters(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("fold_counters", FOLD_SECONDS)
        self._store = store

    async def run(self) -> None:
        await self._store.fold_counters()
        await self._store.fold_subscriptions()
