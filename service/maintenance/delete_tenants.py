"""Delete the rows of tenants that are being deleted."""

from service.maintenance.chore import Periodic
from service.maintenance.store import MaintenanceStore

DELETE_TENANTS_SECONDS = 5.0


class DeleteTenants(Periodic):
    """Deletes chunk by chunk, beside other janitors: each of them skips a tenant at which another one is."""

    def __init__(self, store: MaintenanceStore) -> None:
        super().__init__("delete_tenants", DELETE_TENANTS_SECONDS)
        self._store = store

    async def run(self) -> None:
        while await self._store.delete_tenant_chunk():
            pass
