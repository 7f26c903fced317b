"""The stage of a case: the server, the report and the progress bar; and databases with their processes."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from rich.progress import Progress, TaskID

from bench import meter
from bench.meter import Meter, Reading
from bench.processes import START_SECONDS, BenchError, Child, Client, ProcessGroup
from bench.report import Figure, Figures, Report, Row, median
from bench.sample import percentile
from bench.server import Server

SHORT_SECONDS = 1.0  # a rate over less time is too small to tell
MEDIAN_VALUES, TAIL_VALUES = 6, 300  # a percentile of fewer values is too small to tell


class CaseDatabase:
    """A database, the benchmark's connection to it (role `bench`), and the processes that work on it."""

    def __init__(
        self, name: str, sql: "asyncpg.Connection[asyncpg.Record]", dsn: str, processes: ProcessGroup, server: Server
    ) -> None:
        self.name = name
        self.sql = sql
        self.dsn = dsn
        self.processes = processes
        self._server = server
        self._meter = Meter(sql, server.pid)

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A further connection of the benchmark's role."""
        return await self._server.connect(self.name)

    async def read(self) -> Reading:
        return await self._meter.read(self.processes.pids)

    async def worker(self, **settings: str) -> Child:
        """Start a worker and wait until it is registered and hears hints."""
        child = await self.processes.worker(settings)
        await self.until(
            "select exists (select from treadle.workers where pid = $1 and server_started is not null)",
            child.pid,
            seconds=30,
            what="the worker's start",
            pause=0.1,
        )
        return child

    async def client(
        self, program: str | Sequence[str], config: Any, *, kind: str = "load", seconds: float = START_SECONDS
    ) -> Client:
        """Start a client and wait until it is ready."""
        client = await self.processes.client(program, config, kind=kind)
        await client.ready(seconds)
        return client

    async def until(self, question: str, *args: Any, seconds: float, what: str, pause: float = 0.05) -> None:
        """Ask until the answer is true; raises BenchError after `seconds`, or if an API or a worker has ended."""
        deadline = time.monotonic() + seconds
        while not await self.sql.fetchval(question, *args):
            self.processes.check()
            if time.monotonic() > deadline:
                raise BenchError(f"Waiting for {what} took longer than {seconds:g} seconds.")
            await asyncio.sleep(pause)


class Stage:
    def __init__(self, server: Server, report: Report, progress: Progress, *, quick: bool, profile: bool) -> None:
        self.server = server
        self.report = report
        self.quick = quick
        self._progress = progress
        self._profile = profile
        self._task: TaskID | None = None
        self._case = ""

    def begin(self, case: str) -> None:
        self._case = case
        self._task = self._progress.add_task(case, total=None, doing="")

    def end(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, total=1, completed=1, doing="")

    def tell(self, doing: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, doing=doing)

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def record(self, name: str, figures: Figures, repeats: list[Figures] | None = None, *, part: str = "") -> None:
        """Add a row to the report; `part` names a table of its own within the case."""
        rounds = [{key: figure.value for key, figure in figures.items()} for figures in repeats or ()]
        self.report.add(Row(self._case + part, name, figures, rounds))
        self.tell(name)

    def skip(self, what: str) -> None:
        self.report.skipped.append(what)

    def fail(self, name: str, error: BenchError) -> None:
        """Record that one row failed; the case continues."""
        self.report.failed.append(f"{self._case}, {name}: {error}")

    async def repeat(self, name: str, times: int, once: Callable[[], Awaitable[Figures]]) -> Figures:
        """Measure several times and record the medians."""
        rounds = []
        for n in range(times):
            self.tell(f"{name} ({n + 1}/{times})" if times > 1 else name)
            rounds.append(await once())
        figures = median(rounds)
        self.record(name, figures, rounds if times > 1 else None)
        return figures

    @asynccontextmanager
    async def base(self, name: str, template: str = "treadle") -> AsyncIterator[CaseDatabase]:
        """A database of this name for the block; its processes end with it."""
        name = "bench_" + re.sub(r"\W+", "_", name.lower())
        await self.server.create(name, template)
        processes = ProcessGroup(self.server.folder, self.server.dsn(name))
        sql = await self.server.connect(name)
        try:
            if self._profile:
                await meter.reset_statements(sql)
            yield CaseDatabase(name, sql, self.server.dsn(name), processes, self.server)
            if self._profile:
                self.report.profiles[name] = await meter.profile(sql)
        except Exception:
            processes.check()  # a dead process explains the other error
            raise
        finally:
            await processes.close()
            await sql.close()
            await self.server.drop(name)


def rate(messages: int, seconds: float, each: str = "messages") -> Figures:
    return {"rate": Figure(messages / seconds, f"{each}/s", seconds < SHORT_SECONDS), "seconds": Figure(seconds, "s")}


def spread(values: Sequence[float]) -> Figures:
    """Percentiles of milliseconds, given in any order. One beyond which fewer than three values lie is weak."""
    ordered = sorted(values)
    return {
        "p50": Figure(percentile(ordered, 0.5), "ms", len(ordered) < MEDIAN_VALUES),
        "p99": Figure(percentile(ordered, 0.99), "ms", len(ordered) < TAIL_VALUES),
        "max": Figure(ordered[-1], "ms", len(ordered) < TAIL_VALUES),
    }


Case = Callable[[Stage], Awaitable[None]]
Settings = Mapping[str, str]
