"""Sessions of the login role of a tenant."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from service.access.sql_roles.store import SqlRoleStore
from service.cli.address import with_login
from service.db.pool import Connection, Database
from tests.support.sql_client import decode_jsonb

REFUSED = asyncpg.InsufficientPrivilegeError


@contextlib.asynccontextmanager
async def tenant_session(database: Database, dsn: str, tenant: str) -> AsyncIterator[Connection]:
    store = SqlRoleStore(database)
    role, password = await store.create(tenant, connections=5, statement_seconds=60)
    connection = await asyncpg.connect(with_login(dsn, role, password))
    await decode_jsonb(connection)
    yield connection
    await connection.close()
    await store.drop(role)


async def rows_of(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(query)]
