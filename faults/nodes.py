"""The nodes of a run: each is a `treadle up` on the common database, behind its own proxies."""

import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from faults.ports import KeptPort
from faults.postgres import Server
from faults.proxy import Proxy
from service.local import address

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 90.0
STOP_SECONDS = 30.0
DATABASE_AWAY = b"Error: PostgreSQL cannot be reached"

# Short intervals, so that everything happens within a run of a minute.
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
WORKER_TIMEOUT_SECONDS = float(SETTINGS["WORKER_TIMEOUT"])
HEARTBEAT_INTERVAL_SECONDS = float(SETTINGS["HEARTBEAT_INTERVAL"])


class NodeFailed(Exception):
    """A node did not start or stop as it must."""


class Node:
    """`databases` are its proxies to the servers. Clients reach its API, which listens at `port`, by `api_proxy`."""

    def __init__(self, name: str, folder: Path, workers: int, journal: Path) -> None:
        self.name = name
        self._folder = folder / name
        self._workers = workers
        self._journal = journal
        self._kept = KeptPort()
        self.port = self._kept.number
        self.log = folder / f"{name}.log"
        self.databases: list[Proxy] = []
        self.api_proxy = Proxy(self.port)
        self._process: Process | None = None
        self._log_start = 0  # offset in the log at which the present supervisor began

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def prepare(self, servers: Sequence[Server]) -> None:
        """Start its proxies to these servers, and the clients' proxy to it."""
        self.databases = [Proxy(server.port, postgres=True) for server in servers]
        for proxy in (*self.databases, self.api_proxy):
            await proxy.start()

    async def start(self) -> None:
        """Start the supervisor, and wait until its API answers; raises NodeFailed.

        If it ends because PostgreSQL is away it is started again, as a process manager does.
        """
        deadline = time.monotonic() + START_SECONDS
        process = await self._spawn()
        while not await asyncio.to_thread(self._serves):
            if time.monotonic() > deadline:
                raise NodeFailed(f"{self.name} did not serve within {START_SECONDS:g} seconds: see {self.log.name}")
            if process.returncode is not None:
                if DATABASE_AWAY not in self.log.read_bytes()[self._log_start :]:
                    raise NodeFailed(f"{self.name} ended with {process.returncode}: see {self.log.name}")
                process = await self._spawn()
            await asyncio.sleep(0.1)

    async def _spawn(self) -> Process:
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.databases)
        environment = {
            **os.environ,
            **SETTINGS,
            "DATABASE_URL": f"postgresql://treadle@{hosts}/treadle?sslmode=disable",
            "TREADLE_HOME": str(self._folder),
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "WORKERS": str(self._workers),
            "FAULTS_JOURNAL": str(self._journal),
            "PYTHONPATH": str(ROOT),
        }
        with open(self.log, "ab") as log:  # noqa: ASYNC230  # a local file, opened once
            self._log_start = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service.cli", "up"),
                env=environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        return self._process

    def _serves(self) -> bool:
        """Whether this supervisor's API answers. (Before it starts, the API of a killed supervisor may answer.)"""
        return bool(self.children("serve")) and address.answers("127.0.0.1", self.port)

    async def stop(self) -> None:
        """SIGTERM, as in a deployment; raises NodeFailed."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                raise NodeFailed(
                    f"{self.name} did not stop within {STOP_SECONDS:g} seconds: see {self.log.name}"
                ) from None

    async def kill(self) -> None:
        """kill -9 of the supervisor; its children notice that and end."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        try:
            await self.stop()
        except NodeFailed:
            for pid in (*self.children("work"), *self.children("serve")):
                signal_to(pid, signal.SIGKILL)
            await self.kill()
        for proxy in (*self.databases, self.api_proxy):
            await proxy.close()
        self._kept.close()

    def children(self, command: str) -> list[int]:
        """The processes of this node that run this command of `treadle`."""
        if not self.alive:
            return []
        return [pid for pid, parent, _, args in _processes() if parent == self.pid and args.endswith(f"cli {command}")]

    def api_kilobytes(self) -> int:
        """Resident memory of its API."""
        serving = set(self.children("serve"))
        return sum(kilobytes for pid, _, kilobytes, _ in _processes() if pid in serving)


def signal_to(pid: int, number: signal.Signals) -> bool:
    """Returns whether the process existed."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def end_leftover(home: Path) -> None:
    """End the supervisor of this TREADLE_HOME that a killed run left behind; its children end with it."""
    with suppress(OSError, ValueError), open(home / "supervisor.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # it lives
            signal_to(int(lock.read()), signal.SIGTERM)


def _processes() -> list[tuple[int, int, int, str]]:
    """pid, parent's pid, resident kilobytes and command line of every process."""
    out = subprocess.run(["ps", "-eo", "pid,ppid,rss,args"], capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\s*(\d+)\s+(\d+)\s+(\d+)\s+(.*?)\s*$", out, re.MULTILINE)
    return [(int(pid), int(parent), int(rss), args) for pid, parent, rss, args in rows]
