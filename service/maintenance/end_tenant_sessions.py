"""End sessions of tenants' own logins that hold too much for too long."""

import logging

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


class EndTenantSessions(Periodic):
    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("end_tenant_sessions", LOOK_SECONDS)
        self._store = store

    async def run(self) -> None:
        for tenant, role, reason in await self._store.end_tenant_sessions():
            log.warning(
                "a session of a tenant's login was ended", extra={"tenant": tenant, "role": role, "reason": reason}
            )
