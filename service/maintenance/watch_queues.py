"""Warn of queues whose messages wait although no living worker claims from them."""

import logging

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)

WATCH_SECONDS = 60.0


class WatchQueues(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("watch_queues", WATCH_SECONDS)
        self._store = store

    async def run(self) -> None:
        for queue, queued in (await self._store.unclaimed_queues()).items():
            log.warning(
                "no worker claims from a queue: name it in QUEUES of a worker, or start its remote worker or consumer",
                extra={"queue": queue, "queued": queued},
            )
