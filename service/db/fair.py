"""A pool that leaves connections to other tenants, whatever one of them asks."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from service.db.connection import COMMAND_TIMEOUT_SECONDS
from service.db.pool import Database, Result
from service.errors import Unavailable
from service.places import Places

tenant_of_request: ContextVar[str] = ContextVar("tenant_of_request", default="")
"""In the task of a request: the tenant that asks. A read that serves several requests sets it to the tenant whose rows
it reads (empty: all), because its task is that of another request."""


class FairDatabase(Database):
    """The calls of one tenant have at most `of_tenant` connections at once; its further calls wait for each other."""

    def __init__(self, dsn: str, *, of_tenant: int, **options: Any) -> None:
        super().__init__(dsn, **options)
        self._places = Places(of_tenant)

    async def _ask(self, call: Callable[[Any], Awaitable[Result]], repeatable: bool) -> Result:
        tenant = tenant_of_request.get()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                await self._places.enter(tenant)
        except TimeoutError:
            raise Unavailable("Too many slow reads of this tenant are under way: try again.") from None
        try:
            return await super()._ask(call, repeatable)
        finally:
            self._places.leave(tenant)
