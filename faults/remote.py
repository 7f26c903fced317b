"""A remote worker of a fault run, `python -m faults.remote URL`: its agent reaches the API of a node over HTTP only."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from faults.agents import answer, noted
from faults.nodes import ROOT
from treadle import Context, Worker, agent

AGENT = "courier"
COURIER_CONCURRENCY = 20
REPLACED_SECONDS = 5.0  # a process gets so long to end


@agent(AGENT)
async def courier(context: Context, request: str) -> str:
    """Streams, keeps a step, and streams again."""
    with noted(context):
        for index in range(context.metadata["chunks"]):
            await context.emit(f"{request}:{context.attempt}:{index} ")
            await asyncio.sleep(context.metadata["pause"])
        await context.step("carried", lambda: context.attempt)
        await context.emit("carried")
    return answer(request, 0)


@asynccontextmanager
async def remote_worker(port: int, journal: Path, log: Path) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """A remote worker at the API on this port. It ends with the block, also if it is stopped (SIGSTOP)."""
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: ASYNC220  # it takes a millisecond
            [sys.executable, "-m", "faults.remote", f"http://127.0.0.1:{port}"],
            env={**os.environ, "FAULTS_JOURNAL": str(journal), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, REPLACED_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)


if __name__ == "__main__":
    Worker(courier, url=sys.argv[1], concurrency=COURIER_CONCURRENCY, grace_seconds=1).run()
