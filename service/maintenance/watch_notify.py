"""Warn when the queue of NOTIFY is too full for hints."""

import logging

from service.installation.model import explain_full_notify_queue
from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)

WATCH_SECONDS = 60.0


class WatchNotify(Periodic):
    """It warns in each run, and says once that hints are sent again."""

    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("watch_notify", WATCH_SECONDS)
        self._store = store
        self._warned = False

    async def run(self) -> None:
        health = await self._store.notify_health()
        if not health.hints_sent:
            log.warning(explain_full_notify_queue(health.usage, health.holder))
        elif self._warned:
            log.info("hints are sent again")
        self._warned = not health.hints_sent
