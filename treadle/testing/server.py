"""The PostgreSQL of a test run: started once, with a migrated database that is cloned for each test."""

import asyncio
import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.db.migrate import migrate
from service.db.pool import connect
from service.local.private_postgres import PrivatePostgres, remove_abandoned, temporary_postgres
from treadle.testing.house import loop_in_thread

MEMORY_FOLDER = Path("/dev/shm")
FOLDER_PREFIX = "treadle-testing-"
TEMPLATE = "treadle_template"


class TestServer:
    """A server for tests: it keeps nothing. `loop` runs in a thread, for all that a test needs of Treadle."""

    __test__ = False  # pytest takes classes of this name for tests

    def __init__(self, server: PrivatePostgres, loop: asyncio.AbstractEventLoop) -> None:
        self._address = f"postgresql://treadle@127.0.0.1:{server.port}"
        self._numbers = itertools.count(1)
        self.loop = loop

    def prepare(self) -> None:
        self._execute(f"create database {TEMPLATE}")
        asyncio.run_coroutine_threadsafe(migrate(f"{self._address}/{TEMPLATE}"), self.loop).result()

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """The address of a clone of the migrated database, which is dropped at the end."""
        name = f"test_{name}_{next(self._numbers)}"
        self._execute(f"create database {name} template {TEMPLATE} strategy file_copy")
        try:
            yield f"{self._address}/{name}"
        finally:
            self._execute(f"drop database {name} with (force)")

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection = await connect(f"{self._address}/postgres", name="treadle.testing")
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run_coroutine_threadsafe(execute(), self.loop).result()


@contextlib.contextmanager
def running_server() -> Iterator[TestServer]:
    folder = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else Path(tempfile.gettempdir())
    remove_abandoned(folder.glob(f"{FOLDER_PREFIX}*"))
    home = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=folder))
    home.chmod(0o711)  # started by root, the server runs as another user, who must reach its folder in here
    with temporary_postgres(home, options={"max_wal_size": "256MB"}) as server, loop_in_thread() as loop:
        found = TestServer(server, loop)
        found.prepare()
        yield found
