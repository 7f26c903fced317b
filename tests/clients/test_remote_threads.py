"""Sync agents of a remote worker that hang keep nothing else from running, and no worker from stopping."""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.serving import serving, url_of
from tests.support.waiting import LIMIT_SECONDS, until
from treadle import Worker, agent


async def test_sync_agents_that_hang_leave_their_places_to_others(api_with_worker: Client) -> None:
    api, let_go = api_with_worker, threading.Event()

    @agent("hangs", timeout=0.3, max_attempts=1)
    def hangs(context: Any, text: str) -> None:
        let_go.wait(LIMIT_SECONDS)

    @agent("says")
    def says(context: Any, text: str) -> Any:
        return context.step("say", lambda: text)

    try:
        async with serving(Worker(hangs, says, url=url_of(api), concurrency=1)):
            for _ in range(3):
                status = await api.settled(await api.submit("x", agent="hangs"))
                assert status["error"] == "The attempt took longer than 0.3 seconds."
            assert (await api.settled(await api.submit("x", agent="says")))["result"] == "x"
        assert not let_go.is_set()  # the worker has stopped though they hang
    finally:
        let_go.set()


PROGRAM = """
import sys, threading
from treadle import Worker, agent

@agent("hangs")
def hangs(context, text):
    print("hangs", flush=True)
    threading.Event().wait()

Worker(hangs, url=sys.argv[1]).run()
"""


async def test_a_program_ends_though_a_sync_agent_hangs(
    api_with_worker: Client, sql: Connection, tmp_path: Path
) -> None:
    (tmp_path / "worker.py").write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(tmp_path / "worker.py"), url_of(api_with_worker)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        await until(lambda: sql.fetchval("select exists (select from treadle.agents where agent = 'hangs')"))
        await api_with_worker.submit("x", agent="hangs")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"hangs\n"
        for number in (signal.SIGTERM, signal.SIGINT):  # at once
            process.send_signal(number)
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
