"""Tenants in PostgreSQL."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from service.db.pages import read_page
from service.db.pool import DELETION_TIMEOUT_SECONDS, Database
from service.errors import NotFound
from service.tenants.model import Tenant, TenantLimits

LIMITS = """
    select l.*, s.bytes as store_bytes, s.max_bytes as max_store_bytes
    from treadle.limits_of($1) l
    cross join treadle.store_use($1) s"""
TENANT = f"select {', '.join(Tenant.__struct_fields__)} from treadle.tenant_overview"

TENANT_PAGE = f"{TENANT} where tenant > $1 order by tenant limit $2"


class Chunk(NamedTuple):
    """A step of the deletion of a tenant: how many threads and messages it deleted, whether it was the last of a pass
    over all messages, and whether the tenant is gone."""

    deleted: int
    pass_over: bool
    is_deleted: bool


class TenantStore:
    """`actor` is the principal's name for the audit."""

    def __init__(self, database: Database, *, reads: Database | None = None) -> None:
        self._database = database
        self._reads = reads or database

    async def page(self, after: str | None, limit: int) -> tuple[list[Tenant], str | None]:
        """Those behind the name `after`, by name, and the name of the last one where others follow."""
        rows, following = await read_page(
            lambda name, quantity: self._reads.fetch(TENANT_PAGE, name or "", quantity),
            lambda row: str(row["tenant"]),
            after=after,
            limit=limit,
        )
        return msgspec.convert(rows, list[Tenant]), following

    async def get(self, tenant: str) -> Tenant:
        """Raises NotFound."""
        row = await self._reads.fetchrow(f"{TENANT} where tenant = $1", tenant)
        if row is None:
            raise NotFound(f"There is no tenant {tenant!r}.")
        return msgspec.convert(row, Tenant)

    async def create(self, actor: str, tenant: str) -> Tenant:
        """Raises Unprocessable for a name that is not acceptable, Conflict where there is one of this name."""
        await self._database.fetchval("select treadle.create_tenant($1, actor => $2)", tenant, actor, repeatable=False)
        return await self.get(tenant)

    async def suspend(self, actor: str, tenant: str, *, suspended: bool) -> Tenant:
        """Suspend it, or let it go on; raises NotFound."""
        await self._database.fetchval("select treadle.suspend_tenant($1, $2, actor => $3)", tenant, suspended, actor)
        return await self.get(tenant)

    async def limit(self, actor: str, tenant: str, limits: Mapping[str, int] | None) -> None:
        """Add these limits (queued, running, per_minute, bytes_per_day, store_bytes) to its own; None: remove these."""
        given = None if limits is None else msgspec.json.encode(limits).decode()
        await self._database.fetchval("select treadle.limit_tenant($1, $2, actor => $3)", tenant, given, actor)

    async def declare_limits(self, limits: Mapping[str, int | None], max_queue_size: int) -> None:
        """Declare the limits of tenants that have none of their own; None: no limit.

        `max_queue_size`: how many messages a queue may hold for submits of tenants' own logins.
        """
        await self._database.fetchval(
            "select treadle.declare_tenant_limits($1), treadle.declare_queue_size($2)",
            msgspec.json.encode(limits).decode(),
            max_queue_size,
        )

    async def limits(self, tenant: str) -> TenantLimits:
        row = await self._reads.fetchrow(LIMITS, tenant)
        return msgspec.convert(row, TenantLimits)

    async def delete(self, actor: str, tenant: str) -> None:
        """Make it unknown at once; `delete_chunk` deletes its rows. Raises NotFound, and Conflict for `default`."""
        await self._database.fetchval("select treadle.delete_tenant($1, actor => $2)", tenant, actor)

    async def delete_chunk(self, tenant: str) -> Chunk | None:
        """Delete the next rows of a tenant that is being deleted. None if another process is at it, or it is gone."""
        row = await self._database.fetchrow(
            "select deleted, pass_over, gone as is_deleted from treadle.delete_tenant_chunk($1)",
            tenant,
            repeatable=False,
            timeout=DELETION_TIMEOUT_SECONDS,
        )
        return None if row is None or row["deleted"] is None else Chunk(*row)
