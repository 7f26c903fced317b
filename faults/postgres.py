"""The PostgreSQL servers of a run: a primary, and a synchronous standby that replaces it."""

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import asyncpg

from faults.ports import KeptPort
from service.local.private_postgres import PrivatePostgres

# The queue of NOTIFY is as small as it can be, so that a fault can fill it.
OPTIONS = {"max_connections": "100", "wal_keep_size": "256MB", "max_notify_queue_pages": "64"}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
STOP_SECONDS = 30.0
# What a call meets while PostgreSQL goes or comes. TimeoutError is an OSError; asyncpg raises InternalClientError where
# the end of the server cuts an answer in the middle.
DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class Server:
    """One server in a folder of its own, on a port that stays the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept = KeptPort()
        self._server = PrivatePostgres(folder, port=self._kept.number, options=OPTIONS | DURABLE)

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def alive(self) -> bool:
        return self._server.alive()

    async def start(self) -> None:
        """Start it, and wait until it has recovered and accepts connections."""
        await asyncio.to_thread(self._server.start)

    async def stop(self, number: signal.Signals) -> None:
        """SIGINT: fast shutdown. SIGQUIT: immediate shutdown, with recovery at the next start."""
        if self._server.pid is not None and self._server.alive():
            with suppress(ProcessLookupError):
                os.kill(self._server.pid, number)
            async with asyncio.timeout(STOP_SECONDS):
                while self._server.alive():
                    await asyncio.sleep(0.02)

    async def delete(self) -> None:
        """Delete its data."""
        await asyncio.to_thread(shutil.rmtree, self._server.data, ignore_errors=True)

    async def copy(self, primary: "Server") -> None:
        """Become the primary's standby: copy it (pg_basebackup) and follow it."""
        place = self._server.place
        self.folder.mkdir(parents=True, exist_ok=True)
        place.prepare()
        source = f"host=127.0.0.1 port={primary.port} user=treadle application_name=standby"
        how = ("-R", "-X", "stream", "--checkpoint=fast", "--no-sync", "-d", source)
        made = await asyncio.to_thread(
            lambda: place.run(place.program("pg_basebackup"), "-D", place.data, *how, as_server_user=True)
        )
        if made.returncode:
            raise RuntimeError(f"pg_basebackup failed: {made.stderr.strip()}")
        await self.start()

    async def connect(self, seconds: float = 15.0) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            f"postgresql://treadle@127.0.0.1:{self.port}/treadle?sslmode=disable", timeout=seconds, command_timeout=600
        )

    @property
    def settings(self) -> str:
        """The text of its settings file."""
        return self._settings_file.read_text()

    async def write_settings(self, text: str) -> None:
        """Replace the settings file, also for open connections."""
        self._settings_file.write_text(text)
        await self.execute("select pg_reload_conf()")

    @property
    def _settings_file(self) -> Path:
        return Path(self._server.data) / "postgresql.conf"

    async def execute(self, *statements: str) -> None:
        connection = await self.connect()
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def remove(self) -> None:
        """Stop the server and remove its files."""
        self._server.stop()
        self._kept.close()
        shutil.rmtree(self._server.place.folder, ignore_errors=True)


class Cluster:
    """`primary` takes the writes. Every commit waits for the standby, if there is one, else for the primary's disk."""

    def __init__(self, folder: Path, *, standby: bool) -> None:
        self.servers = [Server(folder / "a"), *([Server(folder / "b")] if standby else [])]
        self.primary = self.servers[0]

    async def start(self) -> None:
        await self.primary.start()

    async def follow(self) -> None:
        """Give the primary its synchronous standby."""
        for standby in self.servers:
            if standby is not self.primary:
                await standby.copy(self.primary)
                await self.primary.execute(
                    "alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"
                )
                await self._caught_up()

    @property
    def standby(self) -> Server | None:
        return next((server for server in self.servers if server is not self.primary), None)

    async def fail_over(self, new: Server) -> None:
        """Promote the standby after the primary was stopped."""
        old = self.primary
        await new.execute(
            "select pg_promote()",
            "alter system reset synchronous_standby_names",
            "select pg_reload_conf()",
        )
        self.primary = new
        await old.delete()

    async def _caught_up(self) -> None:
        connection = await self.primary.connect()
        try:
            async with asyncio.timeout(60):
                while not await connection.fetchval(
                    "select exists (select from pg_stat_replication where sync_state = 'sync')"
                ):
                    await asyncio.sleep(0.1)
        finally:
            await connection.close()

    def remove(self) -> None:
        for server in self.servers:
            server.remove()
