"""The PostgreSQL of a run: private, durable, in a temporary folder; and the databases in it."""

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

import asyncpg

from bench import agents
from service.agents.registry import Registry
from service.config import Settings
from service.db.pool import Database
from service.local.private_postgres import PrivatePostgres
from service.queues.store import QueueStore

ROOT = Path(__file__).resolve().parents[1]

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # A checkpoint would distort the round in which it falls: the benchmark makes checkpoints between the rounds.
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
    "shared_preload_libraries": "pg_stat_statements",
}


class Server:
    """Databases are clones of `treadle` (migrated, the benchmark's agents registered) or of `plain` (empty).

    All processes connect by TCP. The benchmark's own role is `bench`, so that its statements are not counted.
    """

    def __init__(self, postgres: PrivatePostgres, folder: Path) -> None:
        self._postgres = postgres
        self.folder = folder

    @property
    def pid(self) -> int:
        assert self._postgres.pid is not None
        return self._postgres.pid

    def dsn(self, database: str, user: str = "treadle") -> str:
        return f"postgresql://{user}@127.0.0.1:{self._postgres.port}/{database}"

    async def connect(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(self.dsn(database, "bench"), timeout=5, command_timeout=600)

    async def create(self, name: str, template: str) -> None:
        connection = await self.connect("postgres")
        try:
            await connection.execute("checkpoint")
            await connection.execute(f"create database {name} template {template} owner treadle")
        finally:
            await connection.close()

    async def drop(self, name: str) -> None:
        connection = await self.connect("postgres")
        try:
            await connection.execute(f"drop database if exists {name} with (force)")
        finally:
            await connection.close()

    async def versions(self) -> dict[str, str]:
        connection = await self.connect("treadle")
        try:
            return {
                "postgresql": await connection.fetchval("show server_version"),
                "pgmq": await connection.fetchval("select value from treadle.meta where name = 'pgmq'"),
                "python": sys.version.split()[0],
            }
        finally:
            await connection.close()

    async def commit_ms(self) -> float:
        """Median milliseconds of the smallest durable commit: the least that any writer pays on this disk."""
        connection = await self.connect("plain")
        try:
            await connection.execute("create table ping (n integer)")
            taken = []
            for n in range(100):
                began = time.perf_counter()
                await connection.execute("insert into ping values ($1)", n)
                taken.append(time.perf_counter() - began)
            await connection.execute("drop table ping")
            return statistics.median(taken) * 1000
        finally:
            await connection.close()

    async def install_pgmq(self, database: str) -> None:
        connection = await self.connect(database)
        try:
            await connection.execute((resources.files("pgmq.sql") / "pgmq.sql").read_text(encoding="utf-8"))
        finally:
            await connection.close()

    async def _prepare(self) -> None:
        connection = await asyncpg.connect(self.dsn("postgres"), timeout=5)
        try:
            await connection.execute("create role bench superuser login")
            await connection.execute("create database plain")
        finally:
            await connection.close()
        for name in ("plain", "treadle"):
            connection = await self.connect(name)
            try:
                await connection.execute("create extension pg_stat_statements")
                await connection.execute("grant execute on all functions in schema public to public")
            finally:
                await connection.close()
        migrate = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.cli", "migrate"),
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": self.dsn("treadle"), "LOG_LEVEL": "warning"},
        )
        if await asyncio.wait_for(migrate.wait(), 60):
            raise RuntimeError("treadle migrate failed")
        await self._register_agents()

    async def _register_agents(self) -> None:
        """For the cases that submit without a worker."""
        database = Database(self.dsn("treadle"), name="bench", size=1)
        try:
            registry = Registry(Settings(), (agents.noop, agents.hello, agents.ticker, agents.noter))
            await QueueStore(database).register_agents(registry.rows(), None)
        finally:
            await database.close()


@asynccontextmanager
async def running_server(profile: bool) -> AsyncIterator[Server]:
    """Start a server, and remove it at the end. `profile`: count statements inside functions too."""
    folder = Path(tempfile.mkdtemp(prefix="treadle-bench-"))
    track = {"pg_stat_statements.track": "all" if profile else "top"}
    postgres = PrivatePostgres(folder, port=0, options=SETTINGS | track)
    try:
        await asyncio.to_thread(postgres.start)
        server = Server(postgres, folder)
        await server._prepare()
        yield server
    finally:
        postgres.stop()
        shutil.rmtree(postgres.place.folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
