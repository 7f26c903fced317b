"""Delete rows of the audit past AUDIT_RETENTION_HOURS."""

from service.config import Settings
from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

PURGE_SECONDS = 600.0


class PurgeAudit(Periodic):
    def __init__(self, settings: Settings, store: MaintenanceStore) -> None:
        super().__init__("purge_audit", PURGE_SECONDS)
        self._hours = settings.audit_retention_hours
        self._store = store

    async def run(self) -> None:
        while await self._store.purge_audit(self._hours):
            pass
