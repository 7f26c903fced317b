"""Delete messages and threads past their retention."""

import time
from uuid import UUID

from service.config import Settings
from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PURGE_SECONDS = 60.0
PURGE_FROM_START_SECONDS = 3600.0


class Purge(Periodic):
    """Continues where the last run stopped; once an hour it starts again with the messages that were kept before."""

    def __init__(self, settings: Settings, store: MaintenanceStore) -> None:
        super().__init__("purge", PURGE_SECONDS)
        self._settings = settings
        self._store = store
        self._after: UUID | None = None
        self._from_start_at = 0.0  # by time.monotonic()

    async def run(self) -> None:
        if time.monotonic() >= self._from_start_at:
            self._after = None
            self._from_start_at = time.monotonic() + PURGE_FROM_START_SECONDS
        while True:
            last, purged = await self._store.purge(
                retention_hours=self._settings.retention_hours,
                dead_letter_hours=self._settings.dead_letter_retention_hours,
                after=self._after,
            )
            self._after = last or self._after
            if last is None and not purged:
                return
