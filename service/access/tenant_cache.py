"""When the tenants were created that JWTs name, in memory: a request of a known tenant asks PostgreSQL nothing.

A key belongs to its tenant by its row. A JWT, and a token that a JWT made, only name one: they end when it is deleted,
and a tenant that is created under the same name is another one.
"""

import time
from collections.abc import Sequence

from service.access.store import KeyStore
from service.batching import Batcher

MAX_TENANTS = 10_000
MAX_AGE_SECONDS = 5.0  # of the known tenants, also where the refreshing fails
LOOKUP_TENANTS = 500


class TenantCache:
    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._since: dict[str, int | None] = {}  # in microseconds since 1970; None: it was deleted
        self._read_at = time.monotonic()
        self._lookups: Batcher[str, int | None] = Batcher(self._look_up, limit=LOOKUP_TENANTS)

    async def since(self, tenant: str) -> int | None:
        """When the tenant was created, in microseconds since 1970; None: it does not exist. Raises Unavailable,
        SchemaError."""
        known = self._since.get(tenant) if time.monotonic() - self._read_at <= MAX_AGE_SECONDS else None
        if known is None and (known := await self._lookups.submit(tenant)) is not None:
            if len(self._since) >= MAX_TENANTS:
                self._since.clear()
            self._since[tenant] = known
        return known

    def is_gone(self, tenant: str, since: int) -> bool:
        """Whether the tenant that was created at that time is known to be deleted."""
        return self._since.get(tenant, since) != since

    async def refresh(self) -> bool:
        """Read the known tenants again; returns whether one was deleted. Raises Unavailable, SchemaError."""
        names = list(self._since)
        read_at = time.monotonic()
        ended = False
        for start in range(0, len(names), LOOKUP_TENANTS):
            some = names[start : start + LOOKUP_TENANTS]
            found = await self._store.find_tenants(some)
            for name in some:
                ended = ended or self._since.get(name) not in (None, found.get(name))
                self._since[name] = found.get(name)
        self._read_at = read_at
        return ended

    async def _look_up(self, tenants: Sequence[str], _: bool) -> list[int | None]:
        found = await self._store.find_tenants(list(set(tenants)))
        return [found.get(tenant) for tenant in tenants]
