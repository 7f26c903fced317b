"""The nodes of a run: each a `treadle up` on the common database, with an API and workers, behind its own proxies."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from faults.postgres import Server
from faults.proxy import Proxy
from service import address

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 90.0
STOP_SECONDS = 30.0

# Short enough that what waits for them happens within a run of a minute.
SETTINGS = {
    "AGENTS": "faults.agents",
    "LOG_LEVEL": "info",
    "HEARTBEAT_INTERVAL": "1",
    "WORKER_TIMEOUT": "5",
    "KEEPALIVE_INTERVAL": "2",
    "RETRY_BASE_SECONDS": "0.1",
    "RETRY_MAX_SECONDS": "2",
    "SHUTDOWN_GRACE": "3",
    "PROCESSING_TIMEOUT": "60",
}
WORKER_TIMEOUT = float(SETTINGS["WORKER_TIMEOUT"])


class Node:
    """`databases` are its ways to the servers, `door` is the clients' way to its API."""

    def __init__(self, name: str, folder: Path, workers: int, journal: Path) -> None:
        self.name = name
        self._folder = folder / name
        self._workers = workers
        self._journal = journal
        self._port = _free_port()
        self.log = folder / f"{name}.log"
        self.databases: list[Proxy] = []
        self.door = Proxy(self._port)
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.door.port}"

    @property
    def direct_url(self) -> str:
        """Past the proxy."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def prepare(self, servers: Sequence[Server]) -> None:
        """Open its ways to these servers, and the clients' to it."""
        self.databases = [Proxy(server.port, postgres=True) for server in servers]
        for proxy in (*self.databases, self.door):
            await proxy.start()

    async def start(self) -> None:
        """Start the supervisor, and wait until its API answers."""
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.databases)
        environment = {
            **os.environ,
            **SETTINGS,
            "DATABASE_URL": f"postgresql://treadle@{hosts}/treadle?sslmode=disable",
            "TREADLE_HOME": str(self._folder),
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "WORKERS": str(self._workers),
            "FAULTS_JOURNAL": str(self._journal),
            "PYTHONPATH": str(ROOT),
        }
        with open(self.log, "ab") as log:  # noqa: ASYNC230  # a local file, opened once
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service.cli", "up"),
                env=environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        async with asyncio.timeout(START_SECONDS):
            while not await asyncio.to_thread(address.answers, "127.0.0.1", self._port):
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self.name} ended with {self._process.returncode}: see {self.log}")
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """SIGTERM, as a deployment does it."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()

    async def kill(self) -> None:
        """kill -9 of the supervisor; its children notice and end by themselves."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        try:
            await self.stop()
        except TimeoutError:
            for pid in (*self.children("work"), *self.children("serve")):
                signal_to(pid, signal.SIGKILL)
            await self.kill()
        for proxy in (*self.databases, self.door):
            await proxy.close()

    def children(self, command: str) -> list[int]:
        """The processes of this node that run a command of ours."""
        if not self.alive:
            return []
        return [pid for pid, parent, _, args in _processes() if parent == self.pid and args.endswith(f"cli {command}")]

    def api_kilobytes(self) -> int:
        """Resident memory of its API."""
        serving = set(self.children("serve"))
        return sum(kilobytes for pid, _, kilobytes, _ in _processes() if pid in serving)


def signal_to(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _processes() -> list[tuple[int, int, int, str]]:
    """pid, parent's pid, resident kilobytes and command line of every process."""
    out = subprocess.run(["ps", "-eo", "pid,ppid,rss,args"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s+(.*?)\s*$", out, re.MULTILINE)
    return [(int(pid), int(parent), int(rss), args) for pid, parent, rss, args in rows]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
