"""A pool for changes that may need what another transaction holds."""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import asyncpg

from service.db.fair import tenant_of_request
from service.db.pool import Database, Result
from service.patience import DIRECT_CALLS, HELD_SECONDS, Patience


class PatientDatabase(Database):
    """A call that finds a row held waits a moment in PostgreSQL, as long as its function lets it, and then without a
    connection. One call of those with the same statement and arguments is repeated, the others wait in a line behind
    it, and all are answered with Busy HELD_SECONDS after their arrival. Changes that a tenant's requests make leave a
    connection to those of other tenants, however long they take. `fetch`, for reads, does not wait so."""

    def __init__(self, dsn: str, **options: Any) -> None:
        super().__init__(dsn, **options)
        self._patience = Patience(
            seconds=HELD_SECONDS, slots=DIRECT_CALLS + 1, slots_of_group=DIRECT_CALLS, repetitions=1
        )

    async def fetchrow(
        self, query: str, *args: Any, repeatable: bool = True, timeout: float | None = None
    ) -> asyncpg.Record | None:
        ask = super().fetchrow
        return await self._wait(lambda: ask(query, *args, repeatable=repeatable, timeout=timeout), query, args)

    async def fetchval(self, query: str, *args: Any, repeatable: bool = True, timeout: float | None = None) -> Any:
        ask = super().fetchval
        return await self._wait(lambda: ask(query, *args, repeatable=repeatable, timeout=timeout), query, args)

    async def _wait(self, ask: Callable[[], Awaitable[Result]], query: str, args: tuple[Any, ...]) -> Result:
        key = (query, *(arg for arg in args if isinstance(arg, Hashable)))
        return await self._patience.run(lambda _: ask(), key=key, group=tenant_of_request.get())
