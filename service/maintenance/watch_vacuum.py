"""Warn when dead rows pile up: an old snapshot keeps them, or vacuum is too slow."""

import logging

from service.installation.model import DEAD_ROWS_WARNING, SNAPSHOT_WARNING_SECONDS
from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)

WATCH_SECONDS = 300.0


class WatchVacuum(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("watch_vacuum", WATCH_SECONDS)
        self._store = store

    async def run(self) -> None:
        health = await self._store.vacuum_health()
        if health.snapshot_seconds is not None and health.snapshot_seconds > SNAPSHOT_WARNING_SECONDS:
            log.warning(
                "an old snapshot keeps dead rows from being removed: end the transaction that holds it",
                extra={
                    "holder": health.holder,
                    "seconds": round(health.snapshot_seconds),
                    "dead_rows": health.dead_rows,
                },
            )
        elif (health.dead_rows or 0) > DEAD_ROWS_WARNING:
            log.warning(
                "vacuum does not keep up with a table",
                extra={"table": health.table_name, "dead_rows": health.dead_rows},
            )
