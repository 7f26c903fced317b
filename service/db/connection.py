"""Opening a connection to PostgreSQL: to the host that takes writes, with the session settings of the service."""

import functools
import json
import random
import socket
import ssl
from asyncio.staggered import staggered_race
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from service import database_address
from service.database_address import Address
from service.db import pooler as poolers
from service.db import read_only
from service.errors import AddressRejected, ConfigError, NotConnected

CONNECT_TIMEOUT_SECONDS = 3.0
Role = Literal["treadle_app", "treadle_worker"]
COMMAND_TIMEOUT_SECONDS = 10.0  # without one, a half-open connection would hang for ever
NEXT_HOST_SECONDS = 0.3  # without an answer, after which the next host is also tried

# How soon the server ends the session of a client that has vanished: until then the session keeps its locks.
KEEPALIVE = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}
# How the server writes times, also in views and in messages of errors. Functions pin the time zone themselves.
UTC = {"timezone": "UTC", "datestyle": "ISO, YMD"}
# To compile a statement takes longer than any of ours runs. The functions of sql/ switch JIT off by themselves; this is
# for statements on views.
PLANS = {"jit": "off"}
# How the server reads our SQL: the database or the role may have other settings.
TEXTS = {"standard_conforming_strings": "on", "quote_all_identifiers": "off", "row_security": "on"}
SESSION = KEEPALIVE | UTC | PLANS | TEXTS
# Limits of our own replace those of the server, the database and the role, with which a call would fail instead of
# waiting. What the address itself sets stays. Our functions are written for `read committed`.
TRANSACTION_TIMEOUT = "transaction_timeout"  # which PostgreSQL until LAST_MAJOR_WITHOUT_IT refuses
LAST_MAJOR_WITHOUT_IT = 16
LIMITS = {
    TRANSACTION_TIMEOUT: "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_isolation": "read committed",
}
# They begin with the session; past a pooler, which takes or passes on no settings, with its first statement.
SET_LIMITS = """
    select set_config(s.name, l.value, false)
    from json_each_text('{limits}') l (name, value)
    join pg_settings s on s.name = l.name and s.source <> 'client'"""

# The session takes the role where its login role may, as the owner does. Before the first migration there is no such
# role. A login role that is a member and may not take the role has its rights anyway. PostgreSQL 15 has one kind of
# membership.
TAKE_ROLE = """
    select set_config('role', r.rolname, false)
    from pg_roles r
    where r.rolname = '{role}' and pg_has_role(session_user, r.oid, '{membership}')"""

CONNECTION_ERRORS = (
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
# The server answered, and another try with the same address gets the same answer.
_REJECTIONS = (
    asyncpg.InvalidAuthorizationSpecificationError,  # also a wrong password
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidParameterValueError,
    asyncpg.UndefinedObjectError,  # an unknown setting in `options`
    asyncpg.PostgresSyntaxError,  # another mistake in `options`
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.InsufficientPrivilegeError,
    ssl.SSLCertVerificationError,
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_older_servers: set[tuple[str, str | None]] = set()  # by address and host: those that have refused TRANSACTION_TIMEOUT

FIXED_TYPES = range(10_000)  # the oids that PostgreSQL itself gives to types: the same ones on every server


class _NoStatement(NamedTuple):
    name: str = "none was prepared"


class KnownTypesConnection(asyncpg.Connection):
    """It looks up each of PostgreSQL's own types once in a process. asyncpg asks the server in each connection and
    for each new type of array, which costs the server as much as ten of our calls."""

    _known: ClassVar[dict[int, Any]] = {}  # rows of asyncpg's question, by the oid of the type

    async def _introspect_types(self, typeoids: Iterable[int], timeout: float | None) -> tuple[list[Any], Any]:
        oids = list(typeoids)
        if all(oid in self._known for oid in oids):
            return [self._known[oid] for oid in oids], _NoStatement()
        rows, statement = await super()._introspect_types(oids, timeout)  # type: ignore[misc]  # a private one
        self._known.update({row["oid"]: row for row in rows if row["oid"] in FIXED_TYPES})
        return rows, statement


async def connect(
    dsn: str,
    *,
    name: str,
    pooler: bool = False,
    command_timeout: float = COMMAND_TIMEOUT_SECONDS,
    statement_timeout: float = 0,
    role: Role | None = None,
) -> Connection:
    """Open one connection to the server that takes writes.

    After `command_timeout` seconds a call is cancelled from here, after `statement_timeout` seconds by the server (0:
    never); a pooler in transaction mode has only the first. The session takes `role` (None: it keeps the rights of its
    login role), but not behind such a pooler, where the login role must be a member. Where the address names several
    hosts, they are tried in a staggered race, so that a silent one delays no other. Raises NotConnected;
    AddressRejected where trying again cannot help, also for a pooler that `pooler` does not tell and a server that is
    set to take no writes; ConfigError for an address that no connection can have.
    """
    address = database_address.parse(dsn)
    opener = functools.partial(_open, address, name, command_timeout)
    try:
        if pooler:
            return await opener(settings={}, pooler=True)
        limits = {"statement_timeout": f"{statement_timeout:g}s"} | LIMITS
        limits = {name: value for name, value in limits.items() if name not in address.settings}
        connection, lacks_limits = await _open_past_refused_settings(opener, limits)
        if await poolers.require_session(connection, dsn, lambda: opener(settings={}, pooler=True)):
            lacks_limits = True
        await _set_up(connection, limits if lacks_limits else {}, role)
        return connection
    except _REJECTIONS as error:
        raise AddressRejected(explain(error)) from error
    except (ValueError, OverflowError) as error:  # asyncpg's ClientConfigurationError too, such as PGSSLMODE=maybe
        raise ConfigError(f"PostgreSQL's address cannot be used: {first_line(error)}.") from error
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        refused = isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)
        raise (AddressRejected if refused else NotConnected)(explain(error)) from error


async def _set_up(connection: Connection, limits: dict[str, str], role: Role | None) -> None:
    statements = [SET_LIMITS.format(limits=json.dumps(limits))] if limits else []
    if role is not None:
        membership = "set" if connection.get_server_version().major >= 16 else "member"
        statements.append(TAKE_ROLE.format(role=role, membership=membership))
    try:
        if statements:
            await connection.execute(";".join(statements))
    except BaseException:
        connection.terminate()
        raise


async def _open_past_refused_settings(
    opener: "functools.partial[Any]", limits: dict[str, str]
) -> tuple[Connection, bool]:
    """A pooler such as PgBouncer refuses settings that it does not know; without them it shows what it is. Also returns
    whether it did."""
    try:
        return await opener(settings=SESSION | limits, pooler=False), False
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise
    return await opener(settings={}, pooler=False), True


async def _open(
    address: Address, name: str, command_timeout: float, *, settings: dict[str, str], pooler: bool
) -> Connection:
    attempt = functools.partial(_attempt, address, name, command_timeout, settings, pooler)
    hosts = list(address.hosts)
    if len(hosts) == 1:
        return await attempt()
    if address.any_order:
        random.shuffle(hosts)
    default_port = 5432 if any(port for _, port in hosts) else None
    attempts = [functools.partial(attempt, host=host, port=port or default_port) for host, port in hosts]
    winner, _, errors = await staggered_race(attempts, NEXT_HOST_SECONDS)
    if winner is None:
        failures = [error for error in errors if error is not None]
        raise next((error for error in failures if isinstance(error, AddressRejected)), failures[0])
    connection: Connection = winner
    return connection


async def _attempt(
    address: Address, name: str, command_timeout: float, settings: dict[str, str], pooler: bool, **place: Any
) -> Connection:
    if settings:
        settings = settings | {"application_name": address.application_name or f"treadle {name}"}
    server = (address.url, place.get("host"))
    if is_older := server in _older_servers:
        settings = {name: value for name, value in settings.items() if name != TRANSACTION_TIMEOUT}
    if str(place.get("host") or address.hosts[0][0]).startswith("/"):
        # As in libpq: a unix socket has no TLS, also where PGSSLMODE or PGSSLNEGOTIATION asks for it.
        place |= {"ssl": "disable", "direct_tls": False}
    elif address.system_certificates:
        place["ssl"] = ssl.create_default_context()
    opener = functools.partial(
        asyncpg.connect,
        address.url,
        timeout=address.connect_seconds or CONNECT_TIMEOUT_SECONDS,
        command_timeout=command_timeout,
        statement_cache_size=0 if pooler else 1024,
        server_settings=settings,
        connection_class=KnownTypesConnection,
        **place,
    )
    try:
        # A pooler chooses the server itself.
        wanted = SessionAttribute.any if pooler else SessionAttribute.read_write
        connection: Connection = await opener(target_session_attrs=wanted)
    except asyncpg.TargetServerAttributeNotMatched as error:
        if (refusal := await _refusal_of_writes(opener)) is None:
            raise
        raise refusal from error
    except asyncpg.UndefinedObjectError as error:
        if TRANSACTION_TIMEOUT not in settings or TRANSACTION_TIMEOUT not in str(error):
            raise
        _older_servers.add(server)
        return await _attempt(address, name, command_timeout, settings, pooler, **place)
    if is_older and connection.get_server_version().major > LAST_MAJOR_WITHOUT_IT:
        _older_servers.discard(server)
    if address.socket_options:
        _set_socket_options(connection, address)
    return connection


async def _refusal_of_writes(opener: "functools.partial[Any]") -> NotConnected | None:
    """Why no server of this host takes writes; None: one would by now."""
    try:
        connection: Connection = await opener(target_session_attrs=SessionAttribute.primary)
    except asyncpg.TargetServerAttributeNotMatched:
        return NotConnected(read_only.STANDBY_DETAIL)
    try:
        return await read_only.refusal(connection)
    finally:
        connection.terminate()


def _set_socket_options(connection: Connection, address: Address) -> None:
    transport: Any = getattr(connection, "_transport")  # noqa: B009  # asyncpg has no public way to its socket
    opened = transport.get_extra_info("socket")
    if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
        for level, option, value in address.socket_options:
            opened.setsockopt(level, option, value)


def explain(error: BaseException) -> str:
    """One sentence on why PostgreSQL did not answer."""
    return f"PostgreSQL cannot be reached: {first_line(error)}."


def first_line(error: BaseException) -> str:
    """What an error says first, without its full stop."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return reason.rstrip(".")
