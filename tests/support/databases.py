"""The databases of a test run: clones of a migrated template, which tests have one after another."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import psycopg
from pytest_postgresql.janitor import DatabaseJanitor

from service.db.migrate import migrate
from tests.support.lent_database import LentDatabase
from tests.support.warm_sessions import WarmSessions

TEMPLATE = "treadle_template"
CONNECT_SECONDS = 30
ALONE_TRIES = 12
ADMIN_DATABASE = "postgres"
# PostgreSQL's default strategy would write every block into the write-ahead log.
CLONE = f"template {TEMPLATE} strategy file_copy"

CATALOGS = """
    select oid::regclass::text
    from pg_class
    where relkind = 'r' and relnamespace = 'pg_catalog'::regnamespace"""


def _migrate(*, host: str, port: int | str, user: str, dbname: str, **_: Any) -> None:
    asyncio.run(migrate(f"postgresql://{user}@{host}:{port}/{dbname}"))


def _vacuum_catalogs(**address: Any) -> None:
    """Every session reads the catalogs, and the migration left dead rows in them."""
    with psycopg.connect(**address, autocommit=True) as connection:
        catalogs = connection.execute(CATALOGS)
        connection.execute(f"vacuum (freeze, analyze) {', '.join(row[0] for row in catalogs)}")
    with psycopg.connect(**address):
        pass  # the first session after that writes what it has read of them into a file, which is cloned, too


def patient(dsn: str) -> str:
    """The address for a process that a test starts: a busy machine may need more than the three seconds of the product
    for a new session."""
    return f"{dsn}?connect_timeout={CONNECT_SECONDS}"


class Databases:
    """Databases on the server of the run, cloned from the template that pytest-postgresql makes.

    The fixtures of pytest-postgresql would make a template for each process of the run, open three connections for
    each test, and clone with PostgreSQL's default strategy, which writes every block into the write-ahead log. So its
    janitor makes one template, and one connection clones it. A clone is lent to one test after another.
    """

    def __init__(self, server: str) -> None:
        """`server`: an address without a database."""
        self._server = server
        self._admin = psycopg.connect(f"{server}/{ADMIN_DATABASE}", autocommit=True)
        self._numbers = itertools.count(1)
        self._sessions = WarmSessions(self._admin.info.port)
        self._free: list[LentDatabase] = []
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._admin.close)
        self._stack.enter_context(self._sessions.in_use())

    def close(self) -> None:
        for database in self._free:
            self._drop(database)
        self._stack.close()

    def make_template(self) -> None:
        """Migrate the template. The processes of a run call this at once: one of them makes it, the others wait."""
        self._admin.execute("select pg_advisory_lock(1)")
        try:
            is_made = "select from pg_database where datname = %s and datistemplate"
            if self._admin.execute(is_made, [TEMPLATE]).fetchone() is None:
                info = self._admin.info
                janitor = DatabaseJanitor(host=info.host, port=info.port, user=info.user, dbname=TEMPLATE)
                janitor.drop()  # one whose migration has failed
                janitor.init()
                janitor.load(_migrate)
                _vacuum_catalogs(host=info.host, port=info.port, user=info.user, dbname=TEMPLATE)
                self._admin.execute(f"alter database {TEMPLATE} is_template true")
        finally:
            self._admin.execute("select pg_advisory_unlock(1)")

    @contextlib.contextmanager
    def lend(self) -> Iterator[str]:
        """The address of a migrated database without rows. Other tests had it before, and its sessions are theirs."""
        database = self._take()
        try:
            yield database.dsn
        finally:
            if database.reset():
                self._free.append(database)
            else:
                self._drop(database)

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """The address of a new migrated database, which is dropped at the end."""
        with self._database(CLONE) as dsn:
            yield dsn

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """The address of an empty database, which is dropped at the end."""
        with self._database("") as dsn:
            yield dsn

    def _take(self) -> LentDatabase:
        while self._free:
            database = self._free.pop()
            if database.is_unused():
                return database
            self._drop(database)
        return LentDatabase(self._server, self._create(CLONE), self._sessions)

    def _drop(self, database: LentDatabase) -> None:
        database.close()
        self._execute_alone(f"drop database {database.name} with (force)")

    def _create(self, options: str) -> str:
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self._execute_alone(f"create database {name} {options}")
        return name

    def _execute_alone(self, statement: str) -> None:
        """Execute what needs a database without sessions. PostgreSQL waits five seconds for those that end, and a busy
        machine may need more."""
        for _ in range(ALONE_TRIES - 1):
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                self._admin.execute(statement)
                return
        self._admin.execute(statement)

    @contextlib.contextmanager
    def _database(self, options: str) -> Iterator[str]:
        name = self._create(options)
        try:
            yield f"{self._server}/{name}"
        finally:
            self._execute_alone(f"drop database {name} with (force)")
