"""The databases of a test run: a clone of the migrated template for each test."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import Any

import psycopg
from pytest_postgresql.janitor import DatabaseJanitor

from service.db.migrate import migrate

TEMPLATE = "treadle_template"
ADMIN_DATABASE = "postgres"


def _migrate(*, host: str, port: int | str, user: str, dbname: str, **_: Any) -> None:
    asyncio.run(migrate(f"postgresql://{user}@{host}:{port}/{dbname}"))


class Databases:
    """Databases on the server of the run, cloned from the template that pytest-postgresql makes.

    The fixtures of pytest-postgresql would make a template for each process of the run, open three connections for
    each test, and clone with PostgreSQL's default strategy, which writes every block into the write-ahead log. So its
    janitor makes one template, and one connection clones it.
    """

    def __init__(self, server: str) -> None:
        """`server`: an address without a database."""
        self._server = server
        self._admin = psycopg.connect(f"{server}/{ADMIN_DATABASE}", autocommit=True)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._admin.close()

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
                self._admin.execute(f"alter database {TEMPLATE} is_template true")
        finally:
            self._admin.execute("select pg_advisory_unlock(1)")

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """The address of a migrated database, which is dropped at the end."""
        # PostgreSQL's default strategy would write every block into the write-ahead log.
        with self._database(f"template {TEMPLATE} strategy file_copy") as dsn:
            yield dsn

    @contextlib.contextmanager
    def empty(self) -> Iterator[str]:
        """The address of an empty database, which is dropped at the end."""
        with self._database("") as dsn:
            yield dsn

    @contextlib.contextmanager
    def _database(self, options: str) -> Iterator[str]:
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self._admin.execute(f"create database {name} {options}")
        try:
            yield f"{self._server}/{name}"
        finally:
            self._admin.execute(f"drop database {name} with (force)")
