"""Requeue or fail the messages of dead workers."""

import logging

from service import telemetry
from service.config import Settings
from service.maintenance.chore import Arrivals, Periodic
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)


class Reap(Periodic):
    def __init__(self, worker: str, settings: Settings, store: MaintenanceStore, arrivals: Arrivals) -> None:
        super().__init__("reap", settings.poll_interval)
        self._worker = worker
        self._settings = settings
        self._store = store
        self._arrivals = arrivals

    async def run(self) -> None:
        reaped = await self._store.reap(
            janitor=self._worker,
            heartbeat_interval=self._settings.heartbeat_interval,
            worker_timeout=self._settings.worker_timeout,
            max_losses=self._settings.max_losses,
        )
        if reaped:
            telemetry.reap(works=reaped)
            log.warning("reaped messages of lost workers", extra={"messages": len(reaped)})
            self._arrivals.in_lanes({message.queue for message in reaped})
            for message in reaped:
                self._arrivals.in_log(message.message_id, message.thread)
