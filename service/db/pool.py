"""The connection pool: one call, one statement, one transaction; errors arrive as the classes of `errors`."""

import asyncio
import functools
from asyncio.staggered import staggered_race
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import asyncpg
import msgspec
from asyncpg.connect_utils import SessionAttribute

from service.db.availability import Availability
from service.db.hosts import hosts
from service.errors import BY_SQLSTATE, Busy, NotConnected, SchemaError, TooSlow, Unavailable, Unprocessable

CONNECT_TIMEOUT = 3.0  # seconds
COMMAND_TIMEOUT = 10.0  # seconds; without one, a half-open connection would hang for ever
DELETION_TIMEOUT = 60.0  # of a thread: its messages go in one transaction, a million in ten seconds
CANCEL_TIMEOUT = 2.0  # seconds that a command out of time gets to be cancelled; then its connection is dropped
NEXT_HOST = 0.3  # seconds without an answer after which the next host of an address is asked, too

# How soon the server notices that we are gone: a session that nobody ends keeps its locks.
KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}

GONE = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.TargetServerAttributeNotMatched,
)
# The connection stands, the server has other troubles.
_TROUBLED = (TimeoutError, asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError, asyncpg.QueryCanceledError)
_AGAIN = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.UniqueViolationError)

Result = TypeVar("Result")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def connect(dsn: str, *, name: str, pooler: bool = False, command_timeout: float = COMMAND_TIMEOUT) -> Connection:
    """Open one connection to the server that takes writes; raises Unavailable.

    Where the address names several hosts, none of them can hold up the others, whatever its silence or its refusal.
    """
    candidates = hosts(dsn)
    try:
        if len(candidates) == 1:
            return await _connect(dsn, name, pooler, command_timeout)
        connects = [
            functools.partial(_connect, dsn, name, pooler, command_timeout, host=host, port=port)
            for host, port in candidates
        ]
        winner, _, errors = await staggered_race(connects, NEXT_HOST)
        if winner is not None:
            connection: Connection = winner
            return connection
        raise next(error for error in errors if error is not None)
    except (*GONE, asyncpg.PostgresError) as error:
        raise NotConnected(explain(error)) from error


async def _connect(dsn: str, name: str, pooler: bool, command_timeout: float, **place: Any) -> Connection:
    connection: Connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT,
        command_timeout=command_timeout,
        statement_cache_size=0 if pooler else 1024,
        # A pooler has chosen the server already.
        target_session_attrs=SessionAttribute.any if pooler else SessionAttribute.read_write,
        server_settings={} if pooler else KEEPALIVE | {"application_name": f"treadle {name}"},
        **place,
    )
    return connection


def explain(error: BaseException) -> str:
    """One sentence on why PostgreSQL did not answer."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"PostgreSQL cannot be reached: {reason.rstrip('.')}."


class Database:
    """A pool that opens connections when they are needed, so that a service may start before its database.

    `fetch` and its kin raise Refused (what a function of ours refuses), Busy (a lock was not to be had in time),
    Unavailable (no connection, or it broke) and TooSlow (no answer in time: in `timeout` seconds, where that is given).
    Where `repeatable`, a statement that met a dead connection is tried once more on a fresh one.
    """

    def __init__(
        self,
        dsn: str,
        *,
        name: str,
        size: int,
        pooler: bool = False,
        command_timeout: float = COMMAND_TIMEOUT,
        availability: Availability | None = None,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._size = size
        self._pooler = pooler
        self._command_timeout = command_timeout  # seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._availability = availability
        self._opening = asyncio.Lock()

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

    async def close(self) -> None:
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), 2)
            except TimeoutError:
                pool.terminate()

    async def _ask(self, call: Callable[[Any], Awaitable[Result]], repeatable: bool) -> Result:
        """Make the call, and say where PostgreSQL is away and when it is back."""
        if self._availability is None:
            return await self._call(call, repeatable)
        try:
            answer = await self._call(call, repeatable)
        except NotConnected as error:
            self._availability.gone(error)
            raise
        self._availability.back()
        return answer

    async def _call(self, call: Callable[[Any], Awaitable[Result]], repeatable: bool) -> Result:
        tries = 3 if repeatable else 1
        while True:
            tries -= 1
            try:
                pool = self._pool or await self._open()
                # A timeout costs a task each time; where a connection is idle there is nothing to wait for.
                connection = await pool.acquire(timeout=None if pool.get_idle_size() else COMMAND_TIMEOUT)
                try:
                    return await call(connection)
                except TimeoutError as error:
                    raise TooSlow(explain(error)) from error
                finally:
                    await pool.release(connection, timeout=CANCEL_TIMEOUT)
            except _AGAIN as error:
                if not tries:
                    raise Unavailable(f"PostgreSQL gave up on a transaction: {error}.") from error
            except (asyncpg.ConnectionDoesNotExistError, ConnectionError) as error:
                if not tries:
                    raise NotConnected(explain(error)) from error
            except GONE as error:
                if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                    await self._drop()  # this server is a standby now
                raise (Unavailable if isinstance(error, _TROUBLED) else NotConnected)(explain(error)) from error
            except asyncpg.PostgresError as error:
                raise _translate(error) from error

    async def _open(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=self._size,
                    connect=lambda *_args, **_kwargs: connect(
                        self._dsn, name=self._name, pooler=self._pooler, command_timeout=self._command_timeout
                    ),
                    init=_prepare,
                    reset=_leave_as_is,
                    max_inactive_connection_lifetime=300,
                )
            return self._pool

    async def _drop(self) -> None:
        if self._pool is not None:
            await self._pool.expire_connections()


async def _prepare(connection: Any) -> None:
    # Parameters of type jsonb are JSON text already; answers are decoded.
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=msgspec.json.decode)


async def _leave_as_is(connection: Any) -> None:
    # Nothing of ours outlives its statement, so the default reset (a second round trip) has nothing to do.
    return


def _translate(error: asyncpg.PostgresError) -> Exception:
    state = error.sqlstate or ""
    if refusal := BY_SQLSTATE.get(state):
        return refusal(str(error))
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Busy("Somebody else is at the same thread or key just now.")
    if state in {"22P05", "22021"}:
        return Unprocessable("Text must not contain the NUL character (U+0000).")
    if isinstance(error, asyncpg.DataError | asyncpg.ProgramLimitExceededError):
        return Unprocessable(f"PostgreSQL does not take this: {error}.")
    if isinstance(error, asyncpg.UndefinedFunctionError | asyncpg.UndefinedTableError | asyncpg.InvalidSchemaNameError):
        return SchemaError("The database has no Treadle schema of this release: run treadle migrate.")
    return error
