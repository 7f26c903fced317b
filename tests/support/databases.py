"""The databases of a test run: a clone of the migrated template for each test."""

import contextlib
import itertools
import os
from collections.abc import Iterator

import psycopg
from pytest_postgresql.executors import NoopExecutor


class Databases:
    """Databases on the server of the run, cloned from the template that pytest-postgresql makes.

    All statements go through one connection. The fixture `postgresql` of pytest-postgresql would open three for each
    test, and clone with PostgreSQL's default strategy, which writes every block into the write-ahead log.
    """

    def __init__(self, server: NoopExecutor) -> None:
        self._server = f"postgresql://{server.user}@{server.host}:{server.port}"
        self._template = server.template_dbname
        self._admin = psycopg.connect(f"{self._server}/postgres", autocommit=True)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._admin.close()

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """The address of a migrated database, which is dropped at the end."""
        with self._database(f"template {self._template} strategy file_copy") as dsn:
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
