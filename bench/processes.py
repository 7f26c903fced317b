"""The processes of a case: API, workers and clients. The code that starts one also ends it."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.server import ROOT
from service.local import address
from service.local.parent_watch import PARENT_PIPE_VARIABLE

START_SECONDS = 30.0
STOP_SECONDS = 8.0
LINE_LIMIT = 2**26  # bytes; a client's result is one line


class BenchError(Exception):
    """The benchmark cannot continue; the text says why in one sentence."""


class Child:
    """A process and its log."""

    def __init__(self, kind: str, process: Process, log: Path) -> None:
        self.kind = kind
        self.process = process
        self._log = log
        self._stopped = False  # its end is expected

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises BenchError if the process has ended without `stop`."""
        if self.process.returncode is not None and not self._stopped:
            words = " | ".join(self._log.read_text(errors="replace").strip().splitlines()[-5:])
            end = f"The {self.kind} process (pid {self.pid}) ended with {_described(self.process.returncode)}"
            raise BenchError(f"{end}: {words}" if words else f"{end}.")

    async def stop(self) -> None:
        self._stopped = True
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
            except TimeoutError:
                with suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()


class Client(Child):
    """A load generator or a peer: prepares, says `ready`, waits for `go`, works, answers with JSON (clients.script).

    The `services` that it may need must live while the benchmark waits for it.
    """

    def __init__(self, kind: str, process: Process, log: Path, services: Sequence[Child]) -> None:
        super().__init__(kind, process, log)
        self._services = services

    async def ready(self, seconds: float = START_SECONDS) -> None:
        await self._line(seconds)

    async def run(self, seconds: float) -> Any:
        """Let it go; returns its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        return msgspec.json.decode(await self._line(seconds))

    async def _line(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        for child in self._services:
            child.check()
        reading = asyncio.create_task(self.process.stdout.readline())
        ends = [
            asyncio.create_task(child.process.wait()) for child in self._services if child.process.returncode is None
        ]
        try:
            await asyncio.wait({reading, *ends}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                for child in self._services:
                    child.check()
                raise BenchError(f"The {self.kind} process did not answer within {seconds:g} seconds.")
            line = reading.result()
        finally:
            for task in (reading, *ends):
                task.cancel()
        if not line:
            await asyncio.wait_for(self.process.wait(), 5)
            self.check()
        return line


class ProcessGroup:
    """Starts processes. They end when the benchmark ends, even by kill -9: a pipe tells them."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._folder = folder
        self._dsn = dsn
        self._name = dsn.rpartition("/")[2]
        self._pipe, self._write_end = os.pipe()
        self._children: list[Child] = []
        self._services: list[Child] = []  # children that must live during every measurement

    @property
    def pids(self) -> dict[str, list[int]]:
        """The pids of the live processes, by kind."""
        found: dict[str, list[int]] = {}
        for child in self._children:
            if child.process.returncode is None:
                found.setdefault(child.kind, []).append(child.pid)
        return found

    def check(self) -> None:
        """Raises BenchError if an API or a worker has ended without `stop`."""
        for child in self._services:
            child.check()

    async def api(self, *, port: int | None = None, **settings: str) -> tuple[Child, int]:
        """Start an API; returns it and its port (None: any)."""
        port = port or _free_port()
        child = await self._service("api", "serve", {"PORT": str(port), **settings})
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await asyncio.to_thread(address.answers, "127.0.0.1", port):
                    child.check()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise BenchError(f"The api process did not answer within {START_SECONDS:g} seconds.") from None
        return child, port

    async def worker(self, settings: Mapping[str, str]) -> Child:
        """Start a worker; it may not be ready yet."""
        return await self._service("worker", "work", settings)

    async def client(self, program: str | Sequence[str], config: Any, *, kind: str = "load") -> Client:
        """Start a program, by default `python -m` of a module, and hand it its configuration."""
        command = (sys.executable, "-m", program) if isinstance(program, str) else tuple(program)
        process, log = await self._spawn(kind, command, {}, stdin=PIPE, stdout=PIPE)
        client = Client(kind, process, log, self._services)
        self._children.append(client)
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        await process.stdin.drain()
        return client

    async def close(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children))
        os.close(self._write_end)
        os.close(self._pipe)

    async def _service(self, kind: str, command: str, settings: Mapping[str, str]) -> Child:
        environment = {
            "DATABASE_URL": self._dsn,
            "AGENTS": "bench.agents",
            "LOG_LEVEL": "warning",
            "MAX_QUEUE_SIZE": "100000000",
            "MAX_BODY_BYTES": "100000000",
            "SHUTDOWN_GRACE": "1",
            PARENT_PIPE_VARIABLE: str(self._pipe),
        }
        process, log = await self._spawn(
            kind, (sys.executable, "-m", "service.cli", command), environment | dict(settings)
        )
        child = Child(kind, process, log)
        self._children.append(child)
        self._services.append(child)
        return child

    async def _spawn(
        self,
        kind: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        *,
        stdin: int = DEVNULL,
        stdout: int = DEVNULL,
    ) -> tuple[Process, Path]:
        log = self._folder / f"{self._name}-{kind}-{len(self._children)}.log"
        with open(log, "ab") as output:  # noqa: ASYNC230  # a local file, opened once
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=stdin,
                stdout=stdout,
                stderr=output,
                cwd=ROOT,
                env=os.environ | environment,
                pass_fds=(self._pipe,),
                limit=LINE_LIMIT,
            )
        return process, log


def _described(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
