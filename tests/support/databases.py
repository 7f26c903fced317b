"""The databases of a test run: a migrated template, made once, and a clone of it for each test."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator

import psycopg

from service.db.migrate import migrate

TEMPLATE = "treadle_template"


class Databases:
    """Databases on the server of the run. All statements go through one connection."""

    def __init__(self, port: int) -> None:
        self._server = f"postgresql://treadle@127.0.0.1:{port}"
        self._admin = psycopg.connect(f"{self._server}/postgres", autocommit=True)
        self._numbers = itertools.count(1)
        self._make_template()

    def close(self) -> None:
        self._admin.close()

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """The address of a migrated database, which is dropped at the end."""
        # PostgreSQL's default strategy writes every block of the template into the write-ahead log.
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

    def _make_template(self) -> None:
        """The first process of the run makes it, and the others wait until it is there."""
        self._admin.execute("select pg_advisory_lock(1)")
        try:
            if self._admin.execute("select oid from pg_database where datname = %s", [TEMPLATE]).fetchone():
                return
            self._admin.execute("drop database if exists unfinished with (force)")
            self._admin.execute("create database unfinished")
            asyncio.run(migrate(f"{self._server}/unfinished"))
            self._admin.execute(f"alter database unfinished rename to {TEMPLATE}")
        finally:
            self._admin.execute("select pg_advisory_unlock(1)")
