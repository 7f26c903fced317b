"""A client and a worker in SQL: each method calls one function of sql/, on a connection that the test chooses."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import msgspec

from service.db.connection import KnownTypesConnection
from service.db.pool import Connection
from tests.support.invariants import assert_consistent
from tests.support.sql_calls import ClientCalls, WorkerCalls
from tests.support.sql_rows import SqlRows
from tests.support.waiting import until

OUTCOMES = ("completed", "error", "rejected", "deferred", "overloaded", "released")  # of a finish


class SqlClient(ClientCalls, WorkerCalls, SqlRows):
    """A client and a worker on one connection; `connect` gives another one on a new connection."""

    def __init__(self, sql: Connection, dsn: str, stack: contextlib.AsyncExitStack) -> None:
        super().__init__(sql)
        self._dsn = dsn
        self._stack = stack

    async def connect(self) -> SqlClient:
        """Another client on a new connection."""
        connection = await connect_sql(self._dsn)
        self._stack.push_async_callback(connection.close)
        return SqlClient(connection, self._dsn, self._stack)

    async def limit_lock_waits(self) -> None:
        """From now on, a statement that waits for a lock of an open transaction fails.

        The limit is long because each commit with a NOTIFY takes a lock of the whole server, and waits for the commits
        of other tests, whose sessions may stand still for seconds on a busy machine.
        """
        await self.sql.execute("set lock_timeout = '30s'")

    async def until_blocked(self, other: SqlClient) -> None:
        """Wait until the other client's connection waits for a lock."""
        pid = other.sql.get_server_pid()
        await until(lambda: self.sql.fetchval("select cardinality(pg_blocking_pids($1)) > 0", pid))


async def connect_sql(dsn: str) -> Connection:
    """A plain connection that decodes jsonb."""
    connection: Connection = await asyncpg.connect(dsn, connection_class=KnownTypesConnection)
    await decode_jsonb(connection)
    return connection


async def decode_jsonb(connection: Connection) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=msgspec.json.decode)


@contextlib.asynccontextmanager
async def open_sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    """A client with the agent echo. At the end of the test the database must be consistent."""
    async with contextlib.AsyncExitStack() as stack:
        sql_client = SqlClient(sql, dsn, stack)
        await sql_client.register()
        yield sql_client
        await assert_consistent(sql)
