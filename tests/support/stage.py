"""Two API processes and two workers, for clients whose replica and whose worker are killed (kill -9).

The clients of the scenes `cut` and `replica` reach the first API through proxies, which lead to the second one from
then on, as a load balancer does; all others reach the second one.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from faults.proxy import Proxy
from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.gates import open_gate
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.stage_agents import GATES
from tests.support.waiting import until
from tests.support.worker_processes import WorkerProcesses

OPEN_MESSAGES_SQL = """
    select count(*) from treadle.message_overview
    where agent = 'stage' and user_message #>> '{}' like '%' || $1 and state in ('queued', 'processing')"""

OTHERS = """
    select count(*) from treadle.message_overview
    where state in ('queued', 'processing') and not (agent = 'stage' and user_message #>> '{}' like '%lost')"""


class Stage:
    """`cut`, `replica` and `url` are the addresses for the scenes; `api` is a client of the API that lives."""

    def __init__(self, sql: Connection, workers: WorkerProcesses, proxies: list[Proxy], gates: Path) -> None:
        self._sql = sql
        self._workers = workers
        self._proxies = proxies
        self._gates = gates
        self._apis: list[subprocess.Popen[bytes]] = []
        self._ports: list[int] = []
        self.cut, self.replica = (f"http://127.0.0.1:{proxy.port}" for proxy in proxies)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    async def start_apis(self, settings: Settings, log: Path) -> None:
        environ = {**os.environ, "DATABASE_URL": str(settings.database_url), "HOST": "127.0.0.1"}
        for _ in range(2):
            port = free_port()
            command = [sys.executable, "-m", "service.cli", "serve"]
            with log.open("ab") as out:
                self._apis.append(
                    subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
                        command, env={**environ, "PORT": str(port), "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out
                    )
                )
            self._ports.append(port)
        for proxy in self._proxies:
            proxy.target = self._ports[0]
        self.api = Client(self.url)
        for port in self._ports:
            async with Client(f"http://127.0.0.1:{port}") as client:
                await until(lambda client=client: _is_up(client))  # type: ignore[misc]

    async def start_worker(self) -> subprocess.Popen[bytes]:
        environ = {"AGENTS": "tests.support.stage_agents", "WORKER_CONCURRENCY": "200", GATES: str(self._gates)}
        return await self._workers.start(self._sql, **environ)

    def cut_connections(self) -> None:
        self._proxies[0].target = self._ports[1]
        self._proxies[0].cut()

    def kill_api(self) -> None:
        self._proxies[1].target = self._ports[1]
        self._apis[0].kill()

    async def kill_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """When it runs the messages of the scenes `lost` only: each message that it runs counts a loss."""
        await until(lambda: self._sql.fetchval(OTHERS), lambda count: count == 0)
        worker.kill()

    async def let_end(self, *scenes: str) -> None:
        """Their messages go on to their end."""
        for scene in scenes:
            open_gate(self._gates / scene)
            await until(lambda scene=scene: self._sql.fetchval(OPEN_MESSAGES_SQL, scene), lambda count: count == 0)  # type: ignore[misc]

    async def close(self) -> None:
        for api in self._apis:
            api.kill()
            api.wait()
        for proxy in self._proxies:
            await proxy.close()
        await self.api.aclose()


@contextlib.asynccontextmanager
async def staged(sql: Connection, settings: Settings, folder: Path) -> AsyncIterator[Stage]:
    workers = WorkerProcesses(settings, folder / "workers.log")
    proxies = [Proxy(0), Proxy(0)]
    for proxy in proxies:
        await proxy.start()
    gates = folder / "gates"
    gates.mkdir()
    stage = Stage(sql, workers, proxies, gates)
    try:
        await stage.start_apis(settings, folder / "apis.log")
        yield stage
    finally:
        await stage.close()
        workers.end()


async def _is_up(client: Client) -> bool:
    try:
        return (await client.get("/health")).status_code in (200, 503)  # 503: there is no worker yet
    except (OSError, httpx.TransportError):
        return False
