"""The benchmark says at once, and in one sentence, that a process it needs has died."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import pytest

from bench.processes import BenchError, Child, Client

WAITS = "import sys; sys.stdin.read()"


async def start(program: str) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=PIPE, stdout=PIPE)


async def test_the_waiting_benchmark_reports_a_dead_worker(tmp_path: Path) -> None:
    log = tmp_path / "empty.log"
    log.touch()
    worker = Child("worker", await start(WAITS), log)
    client = Client("load", await start(WAITS), log, [worker])
    try:
        ready = asyncio.create_task(client.ready(60))
        worker.process.kill()
        said = rf"^The worker process \(pid {worker.pid}\) ended with signal SIGKILL\.$"
        for waiting in (ready, client.ready(60)):  # while it died, and afterwards
            with pytest.raises(BenchError, match=said):
                await waiting
    finally:
        await client.stop()


async def test_the_end_of_a_log_says_why(tmp_path: Path) -> None:
    log = tmp_path / "some.log"
    log.write_text("one\ntwo\n")
    worker = Child("worker", await start("raise SystemExit(3)"), log)
    await worker.process.wait()
    with pytest.raises(BenchError, match=r"ended with exit status 3: one \| two$"):
        worker.check()


async def test_a_client_that_died_is_named(tmp_path: Path) -> None:
    log = tmp_path / "empty.log"
    log.touch()
    client = Client("load", await start("raise SystemExit(1)"), log, [])
    with pytest.raises(BenchError, match=rf"^The load process \(pid {client.pid}\) ended with exit status 1\.$"):
        await client.ready(60)


async def test_a_stopped_process_is_not_reported(tmp_path: Path) -> None:
    child = Child("api", await start(WAITS), tmp_path / "none.log")
    await child.stop()
    child.check()
