"""The connection pool: one call, one statement, one transaction; errors arrive as the classes of `errors`."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
import msgspec

from service import telemetry
from service.db import read_only
from service.db.availability import Availability
from service.db.connection import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECTION_ERRORS,
    Connection,
    Role,
    connect,
    explain,
    first_line,
)
from service.db.kept_connections import KeptConnections
from service.errors import BY_SQLSTATE, Busy, NotConnected, NotStorable, SchemaError, TooSlow, Unavailable

CLOSE_SECONDS = 2.0  # for the calls in progress when a process ends
DELETION_TIMEOUT_SECONDS = 60.0  # of a thread: one transaction deletes a million messages in ten seconds

ALL_IN_USE = "All connections of this kind are in use: try again."
STOPPING = "This process is stopping."
NO_SCHEMA = "The database has no Treadle schema of this release: run treadle migrate."
LANE = re.compile(r"pgmq\.q_(\w+)_(high|normal|low|dlq)(?:_msg_id_seq)?\b")  # the table of a lane, or its sequence

__all__ = ["Connection", "Database", "connect"]

# The connection works, but the server cannot serve the call now.
_SERVER_TROUBLES = (
    TimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.QueryCanceledError,
)
_REPEATABLE_ERRORS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError)

Result = TypeVar("Result")


class Database:
    """A pool that opens connections when they are needed, so that a service may start before its database.

    `fetch`, `fetchrow` and `fetchval` raise Refused (a SQL function refused the call), Busy (a lock was not free in
    time), Unavailable (no connection, or it broke) and TooSlow (no answer in time, or within `timeout` seconds).
    Where `repeatable`, a statement that met a dead connection is tried again on a fresh one.
    """

    def __init__(
        self,
        dsn: str,
        *,
        name: str,
        size: int,
        role: Role | None = None,
        pooler: bool = False,
        command_timeout: float = COMMAND_TIMEOUT_SECONDS,
        statement_timeout: float = 0,
        writes: bool = True,
        availability: Availability | None = None,
    ) -> None:
        self._dsn = dsn
        self.name = name
        self._size = size
        self._role = role
        self._pooler = pooler
        self._command_timeout = command_timeout  # seconds
        self._statement_timeout = statement_timeout  # seconds
        self._writes = writes  # else no lost answer leaves a request half done (NotConnected.sent)
        self._connections: KeptConnections | None = None
        self._availability = availability
        self._opening = asyncio.Lock()
        self._closed = False

    async def fetch(
        self, query: str, *args: Any, repeatable: bool = True, timeout: float | None = None
    ) -> list[asyncpg.Record]:
        return await self._ask(lambda connection: connection.fetch(query, *args, timeout=timeout), repeatable)

    async def fetchrow(
        self, query: str, *args: Any, repeatable: bool = True, timeout: float | None = None
    ) -> asyncpg.Record | None:
        return await self._ask(lambda connection: connection.fetchrow(query, *args, timeout=timeout), repeatable)

    async def fetchval(self, query: str, *args: Any, repeatable: bool = True, timeout: float | None = None) -> Any:
        return await self._ask(lambda connection: connection.fetchval(query, *args, timeout=timeout), repeatable)

    @property
    def connection_counts(self) -> tuple[int, int, int]:
        """How many are in use, how many are idle, and how many there may be."""
        in_use, idle = (0, 0) if self._connections is None else self._connections.counts
        return in_use, idle, self._size

    async def close(self) -> None:
        """Wait a moment for the calls in progress. Later calls raise Unavailable."""
        self._closed = True
        async with self._opening:
            connections, self._connections = self._connections, None
        if connections is not None:
            await connections.close(CLOSE_SECONDS)

    async def _ask(self, call: Callable[[Any], Awaitable[Result]], repeatable: bool) -> Result:
        """Make the call, and report to `availability` how it ended."""
        began, failure = time.monotonic(), None
        try:
            answer = await self._call(call, repeatable)
        except Exception as error:
            failure = type(error).__name__
            if self._availability is not None and isinstance(error, NotConnected):
                self._availability.report_away(error)
            raise
        finally:
            telemetry.database_call(pool=self.name, seconds=time.monotonic() - began, error=failure)
        if self._availability is not None:
            self._availability.report_answer()
        return answer

    async def _call(self, call: Callable[[Any], Awaitable[Result]], repeatable: bool) -> Result:
        tries = 3 if repeatable else 1
        sent = False  # whether a try may have run the statement
        while True:
            tries, began = tries - 1, False
            try:
                connections = self._connections or await self._open()
                async with connections.lend(COMMAND_TIMEOUT_SECONDS) as connection:
                    began = self._writes
                    try:
                        return await call(connection)
                    except TimeoutError as error:
                        raise TooSlow("PostgreSQL was reached, but did not answer in time.") from error
                    except asyncpg.ReadOnlySQLTransactionError as error:
                        await connections.expire()  # the others lead to the same server
                        if (refusal := await read_only.refusal(connection)) is None:
                            began = False  # the server has refused it
                            raise
                        raise refusal from error
            except NotConnected as error:  # no connection could be opened, or the server takes no writes
                error.sent = sent
                raise
            except _REPEATABLE_ERRORS as error:
                if not tries:
                    raise Unavailable(f"PostgreSQL gave up on a transaction: {error}.") from error
            except (asyncpg.ConnectionDoesNotExistError, ConnectionError) as error:
                sent = sent or began
                if not tries:
                    raise NotConnected(explain(error), sent=sent) from error
            except CONNECTION_ERRORS as error:
                raise self._unserved(error, sent=sent or began) from error
            except asyncpg.PostgresError as error:
                raise _translate(error) from error

    def _unserved(self, error: Exception, *, sent: bool) -> Unavailable:
        in_use, _, limit = self.connection_counts
        if isinstance(error, TimeoutError) and in_use >= limit:
            return Unavailable(ALL_IN_USE)
        if isinstance(error, _SERVER_TROUBLES):
            return Unavailable(f"PostgreSQL did not serve the call: {first_line(error)}.")
        return NotConnected(explain(error), sent=sent)

    async def _open(self) -> KeptConnections:
        async with self._opening:
            if self._closed:
                raise Unavailable(STOPPING)
            if self._connections is None:
                pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=self._size,
                    connect=lambda *_args, **_kwargs: connect(
                        self._dsn,
                        name=self.name,
                        role=self._role,
                        pooler=self._pooler,
                        command_timeout=self._command_timeout,
                        statement_timeout=self._statement_timeout,
                    ),
                    init=_prepare,
                    reset=_leave_as_is,
                    max_inactive_connection_lifetime=300,
                )
                self._connections = KeptConnections(pool)
            return self._connections


async def _prepare(connection: Any) -> None:
    # Parameters of type jsonb are JSON text already; answers are decoded.
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=msgspec.json.decode)


async def _leave_as_is(connection: Any) -> None:
    # No statement leaves session state behind, so the default reset (a second round trip) has nothing to do.
    return


def _translate(error: asyncpg.PostgresError) -> Exception:
    state = error.sqlstate or ""
    if refusal := BY_SQLSTATE.get(state):
        return refusal(str(error))
    if trouble := _explain_trouble(error):
        return trouble
    if state in {"22P05", "22021"}:
        return NotStorable("Text must not contain the NUL character (U+0000).")
    if isinstance(error, asyncpg.DataError | asyncpg.ProgramLimitExceededError):
        return NotStorable(f"PostgreSQL does not accept this value: {error}.")
    if isinstance(error, asyncpg.UndefinedFunctionError | asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
        lane = LANE.search(str(error))
        return SchemaError(missing_lane(lane[1], lane[2]) if lane else NO_SCHEMA)
    return error


def _explain_trouble(error: asyncpg.PostgresError) -> Exception | None:
    """The error for a call that was right, but that the server cannot serve now."""
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Busy("Another transaction holds the same thread or key: try again.", held=error.detail)
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return SchemaError(f"The database user may not do this: {first_line(error)}.")
    if error.server_source_function == "PreCommit_Notify":  # a trigger's: our functions ask before they notify
        return Unavailable("PostgreSQL's queue of notifications is full: try again.")
    return None


def missing_lane(queue: str, lane: str) -> str:
    """One sentence on a lane whose PGMQ queue was dropped."""
    return f"The lane {lane} of the queue {queue} is missing in PGMQ: run treadle migrate, which restores it."
