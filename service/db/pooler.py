"""Recognises a connection pooler, such as PgBouncer, between the service and PostgreSQL.

LISTEN, a worker's advisory lock and prepared statements belong to a session. A pooler in session mode keeps it for its
client. One in transaction mode does not: DATABASE_POOLER must say so, and LISTEN_DATABASE_URL must go past it.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from service.errors import AddressRejected

log = logging.getLogger(__name__)

PID = "select pg_backend_pid()"
# What a prepared statement meets in another session than its own.
_OTHER_SESSION = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_session_poolers: set[str] = set()  # addresses of poolers that keep sessions; each is looked at once

Connection = Any  # of asyncpg


async def require_session(connection: Connection, dsn: str, open_second: Callable[[], Awaitable[Connection]]) -> bool:
    """Whether a pooler keeps the session. Closes the connection and raises AddressRejected if its session is not its
    own.

    A pooler invents the process number that it tells its clients; `open_second` opens a connection of the same address.
    """
    try:
        pid = await connection.fetchval(PID)
        if pid == connection.get_server_pid():
            return False
        if dsn in _session_poolers:
            return True
        keeps_session = await _keeps_session(connection, pid, open_second)
    except _OTHER_SESSION:
        keeps_session = False
    except BaseException:
        connection.terminate()
        raise
    if not keeps_session:
        connection.terminate()
        raise AddressRejected(
            "The address leads to a connection pooler in transaction mode, such as PgBouncer: set"
            " DATABASE_POOLER=transaction, and give the server's own address as LISTEN_DATABASE_URL."
        )
    _session_poolers.add(dsn)
    log.warning(
        "the address leads to a connection pooler in session mode: each connection of Treadle keeps one of its server"
        " connections; the server's own address would serve better"
    )
    return True


async def _keeps_session(connection: Connection, pid: int, open_second: Callable[[], Awaitable[Connection]]) -> bool:
    """Whether the connection is always served by process `pid`, and another connection never is.

    A pooler takes the server connection that was given back last, or takes them in turn.
    """
    try:
        second = await open_second()
    except TimeoutError:  # all its server connections are kept
        return True
    try:
        for _ in range(3):
            if pid != await connection.fetchval(PID):
                return False
        async with second.transaction():
            return bool(pid != await second.fetchval(PID) and pid == await connection.fetchval(PID))
    finally:
        second.terminate()
