"""`treadle migrate`: PGMQ, then the tables (Alembic), then the functions and views of `sql/`, one migration at a time.

Each step is one transaction and can be repeated: run it again after an interruption. Old workers go on meanwhile:
tables only grow, and functions are replaced under their names.
"""

import asyncio
import contextlib
import logging
import re
import time
from importlib import resources
from typing import NamedTuple

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from service.db.connection import Connection, connect, explain
from service.db.data_files import data_folder
from service.db.schema import DEVELOPMENT_RELEASES, SCHEMA_RELEASE, SQL_FOLDER, digest, is_known, problem
from service.errors import SchemaError, Unavailable

log = logging.getLogger(__name__)

MIGRATIONS_FOLDER = data_folder("migrations")
PGMQ_VERSIONS = ("1.11", "1.12", "1.13")  # tested; another version may have other tables
MIGRATION_LOCK_KEY = "select hashtextextended('treadle.migrate', 0)"
MIGRATION_LOCK_PATIENCE_SECONDS = 600.0
MIGRATION_LOCK_PAUSE_SECONDS = 0.1
LOCK_TIMEOUT = "5s"
# Replacing a view waits for every transaction that reads it, and holds up all later readers while it waits. So a
# migration waits only briefly, rolls back, and tries again after a pause.
VIEW_LOCK_TIMEOUT = "300ms"
VIEW_LOCK_PAUSE_SECONDS = 0.7
VIEW_LOCK_PATIENCE_SECONDS = 30.0  # until the migration gives up
CLOSE_SECONDS = 5.0
STATEMENT_TIMEOUT_SECONDS = 3600.0  # long, for a change of a large table; a wait for a lock ends sooner
_LOCK_ERRORS = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_CONNECTION_ERRORS = (
    ConnectionError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)


class Pending(NamedTuple):
    """What a migration would change, a line each. `is_empty`: the database has no Treadle schema yet."""

    lines: list[str]
    is_empty: bool


async def pending(dsn: str) -> Pending:
    """What `migrate` would do; raises SchemaError or Unavailable as it would, where that can be seen before."""
    connection = await connect(dsn, name="migrate", command_timeout=STATEMENT_TIMEOUT_SECONDS)
    try:
        await _require_version(connection)
        await _refuse_unknown(connection)
        newest = ScriptDirectory(str(MIGRATIONS_FOLDER)).get_current_head()
        if await connection.fetchval("select to_regclass('treadle.meta')") is None:
            return Pending([f"tables: create, up to revision {newest}", "functions: create"], True)
        revision = await connection.fetchval("select version_num from treadle.alembic_version")
        functions = await connection.fetchval("select value from treadle.meta where name = 'functions'")
        lines = [] if revision == newest else [f"tables: revision {revision} -> {newest}"]
        return Pending(lines if functions == digest() else [*lines, "functions: replace"], False)
    except _CONNECTION_ERRORS as error:
        raise Unavailable(explain(error)) from error
    finally:
        await _close(connection)


async def migrate(dsn: str) -> None:
    """Bring the database to this release; raises SchemaError or Unavailable with one sentence."""
    connection = await connect(dsn, name="migrate", command_timeout=STATEMENT_TIMEOUT_SECONDS)
    try:
        await _wait_for_lock(connection)
        await _require_version(connection)
        await _refuse_unknown(connection)
        await _install_pgmq(connection)
        await asyncio.to_thread(_upgrade_tables, dsn)
        await _apply_functions(connection)
        await _fit_lanes(connection)
        await _ensure_partitions(connection)
    except _LOCK_ERRORS:
        raise SchemaError(
            "Another transaction has locked a table or a view; nothing was changed in this step. Try again."
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise SchemaError(f"This database user may not migrate: {error}. The owner of the database may.") from None
    except _CONNECTION_ERRORS as error:
        raise Unavailable(explain(error)) from error
    except asyncpg.PostgresError as error:
        raise SchemaError(
            f"The migration failed, and nothing was changed in this step: {_error_text(error)}"
        ) from error
    finally:
        await _close(connection)


async def _close(connection: Connection) -> None:
    """A server that no longer answers is not waited for: statements of this session may take an hour."""
    with contextlib.suppress(*_CONNECTION_ERRORS):
        await connection.close(timeout=CLOSE_SECONDS)


async def _wait_for_lock(connection: Connection) -> None:
    """Wait for other migrations of this database, but for no login of a tenant that took their lock."""
    deadline = time.monotonic() + MIGRATION_LOCK_PATIENCE_SECONDS
    while not await connection.fetchval(f"select pg_try_advisory_lock(({MIGRATION_LOCK_KEY}))"):
        if time.monotonic() > deadline:
            raise SchemaError("Another migration of this database takes too long. Try again.")
        if await connection.fetchval("select to_regprocedure('treadle._end_lock_holders(bigint)') is not null"):
            await connection.execute(f"select treadle._end_lock_holders(({MIGRATION_LOCK_KEY}))")
        await asyncio.sleep(MIGRATION_LOCK_PAUSE_SECONDS)


async def _require_version(connection: Connection) -> None:
    if connection.get_server_version().major < 15:
        raise SchemaError("Treadle needs PostgreSQL 15 or newer.")


async def _refuse_unknown(connection: Connection) -> None:
    """Refuse a database of another version that this version cannot bring to its release."""
    if await connection.fetchval("select to_regclass('treadle.meta')") is None:
        return
    release = await connection.fetchval("select value from treadle.meta where name = 'release'")
    if release is not None and not is_known(release):
        raise SchemaError(f"The database's schema is of the newer release {release}; run a version that knows it.")
    if release in DEVELOPMENT_RELEASES:
        raise SchemaError(problem(release))
    revision = await connection.fetchval("select version_num from treadle.alembic_version")
    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS_FOLDER)).walk_revisions()}
    if revision is not None and revision not in known:
        raise SchemaError(
            f"The database's tables are of revision {revision}, which this version does not know: run a version that"
            " knows it, or start with a new database."
        )


async def _install_pgmq(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        version = await connection.fetchval("select extversion from pg_extension where extname = 'pgmq'")
        if version is None and await connection.fetchval("select to_regclass('pgmq.meta')") is None:
            version = await _create_pgmq(connection)
        if version is None:  # installed from SQL before, by us or by the user
            known = await connection.fetchval("select to_regclass('treadle.meta')")
            version = known and await connection.fetchval("select value from treadle.meta where name = 'pgmq'")
            version = version or _packaged_version()
        if version.rpartition(".")[0] not in PGMQ_VERSIONS:
            versions = ", ".join(PGMQ_VERSIONS)
            raise SchemaError(f"PGMQ {version} is not among the versions Treadle knows: install one of {versions}.")
        await connection.execute("select set_config('treadle.pgmq_version', $1, false)", version)


async def _create_pgmq(connection: Connection) -> str:
    """The extension where the server offers it, else the SQL inside the pinned package `pgmq`."""
    offered = await connection.fetch("select version from pg_available_extension_versions where name = 'pgmq'")
    if any(row["version"].rpartition(".")[0] in PGMQ_VERSIONS for row in offered):
        await connection.execute("create extension pgmq")
        return str(await connection.fetchval("select extversion from pg_extension where extname = 'pgmq'"))
    await connection.execute((resources.files("pgmq.sql") / "pgmq.sql").read_text(encoding="utf-8"))
    return _packaged_version()


def _packaged_version() -> str:
    return (resources.files("pgmq.sql") / "VERSION").read_text(encoding="utf-8").strip()


def _error_text(error: asyncpg.PostgresError) -> str:
    """PostgreSQL's message, and its detail where it gives one."""
    parts = [str(error), getattr(error, "detail", None)]
    return " ".join(f"{part.rstrip('.')}." for part in parts if part)


def _upgrade_tables(dsn: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER))
    config.attributes["dsn"] = dsn
    config.attributes["timeout"] = STATEMENT_TIMEOUT_SECONDS
    try:
        command.upgrade(config, "head")
    except Exception as error:
        raise _first_cause(error) from None


def _first_cause(error: BaseException) -> BaseException:
    """The error of asyncpg: SQLAlchemy wraps it twice, and may fail once more at the end of its transaction."""
    wrapped: BaseException | None = error
    while wrapped is not None:
        cause = getattr(getattr(wrapped, "orig", None), "__cause__", None)
        if isinstance(cause, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
            return cause
        wrapped = wrapped.__cause__ or wrapped.__context__
    return error


async def _apply_functions(connection: Connection) -> None:
    deadline = time.monotonic() + VIEW_LOCK_PATIENCE_SECONDS
    while True:
        try:
            await _try_functions(connection)
            return
        except _LOCK_ERRORS:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(VIEW_LOCK_PAUSE_SECONDS)


async def _try_functions(connection: Connection) -> None:
    # Read committed, whatever the database's default: the generation of lane functions must see queues that other
    # transactions have just committed. Only PostgreSQL's own functions are in the path.
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(f"set local lock_timeout = '{VIEW_LOCK_TIMEOUT}'; set local search_path = pg_catalog")
        files = [path.read_text(encoding="utf-8") for path in sorted(SQL_FOLDER.glob("*.sql"))]
        await _lock_views(connection, re.findall("(?m)^create or replace view ([a-z_.]+)", "".join(files)))
        for file in files:
            await connection.execute(file)
        await connection.execute("select treadle.create_queue('default')")
        if restored := await connection.fetchval("select treadle.restore_lanes()"):
            log.warning("lanes that were missing in PGMQ are there again", extra={"lanes": restored})
        await connection.execute(
            "insert into treadle.meta (name, value) values ('release', $1), ('functions', $2),"
            " ('pgmq', current_setting('treadle.pgmq_version'))"
            " on conflict (name) do update set value = excluded.value",
            str(SCHEMA_RELEASE),
            digest(),
        )


async def _fit_lanes(connection: Connection) -> None:
    """Each in a transaction of its own, because claims and submits wait for it. A lane that others hold is left for
    the next migration: it only costs more than the others."""
    settings = f"set local lock_timeout = '{VIEW_LOCK_TIMEOUT}'; set local search_path = pg_catalog"
    async with connection.transaction():
        await connection.execute(settings)
        unfit = await connection.fetch("select name from treadle._unfit_lanes()")
    for row in unfit:
        try:
            async with connection.transaction():
                await connection.execute(settings)
                await connection.execute("select treadle._fit_lane($1)", row["name"])
        except _LOCK_ERRORS:
            log.warning(
                "a lane keeps the form of an earlier version: run treadle migrate again", extra={"lane": row["name"]}
            )


async def _ensure_partitions(connection: Connection) -> None:
    """Events of a day without a partition go to the default one, so a failure is no reason to stop a migration."""
    try:
        await connection.execute("select treadle.ensure_partitions()")
    except asyncpg.PostgresError as error:
        log.warning(
            "the partitions of the coming days could not be created; the workers try again every hour",
            extra={"error": _error_text(error)},
        )


async def _lock_views(connection: Connection, views: list[str]) -> None:
    """Lock the views that will be replaced before anything else; `lock table` would also lock the tables under them."""
    for row in await connection.fetch("select v from unnest($1::text[]) v where to_regclass(v) is not null", views):
        await connection.execute(f"alter view {row['v']} reset (security_barrier)")
