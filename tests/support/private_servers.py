"""Private PostgreSQL servers of a test."""

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from service.local.private_postgres import PrivatePostgres
from service.local.server_options import FAST_OPTIONS
from tests.support.waiting import wait_until

Make = Callable[..., PrivatePostgres]


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own is closed to all but its user."""
    with tempfile.TemporaryDirectory(prefix="treadle-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextlib.contextmanager
def making(folder: Path) -> Iterator[Make]:
    """Makes servers in `folder`; they are stopped at the end."""
    made: list[PrivatePostgres] = []

    def make(home: Path = folder / "home", **arguments: Any) -> PrivatePostgres:
        made.append(PrivatePostgres(home, **{"options": FAST_OPTIONS, **arguments}))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def ask(dsn: str, statement: str) -> Any:
    async def fetch() -> Any:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def kill(server: PrivatePostgres) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive())
