"""`treadle work` as a process of its own: how it starts and ends."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from service.db.pool import Connection
from tests.support.cli_runner import Cli, error_sentence, run_treadle
from tests.support.databases import patient
from tests.support.messages import overview, submit_many
from tests.support.repository import ROOT
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.workers import worker_ids

STUBBORN = """
import asyncio
from treadle import Context, agent

@agent("stubborn")
async def stubborn(context: Context, request: str) -> str:
    await context.emit("running")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

@agent("deaf")
def deaf(context, request: str) -> str:
    import threading
    context.emit("running")
    threading.Event().wait()
"""


async def test_work_ends_on_sigterm_with_agents_that_ignore_it(sql: Connection, dsn: str, tmp_path: Path) -> None:
    (tmp_path / "stubborn_agents.py").write_text(STUBBORN)
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": patient(dsn),
        "AGENTS": "stubborn_agents",
        "SHUTDOWN_GRACE": "1000",
        "POLL_INTERVAL": "0.2",
    }
    command = [sys.executable, "-m", "service.cli", "work"]
    process = await asyncio.create_subprocess_exec(*command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        await until(lambda: worker_ids(sql))
        ids = await submit_many(sql, [{"message": "x", "agent": name} for name in ("stubborn", "deaf")])
        chunks = "select count(*) from treadle.events where type = 'chunk'"
        await until(lambda: sql.fetchval(chunks), lambda count: count == 2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readuntil(b"waiting for running attempts"), LIMIT_SECONDS)
        stopping = "select count(*) from treadle.messages where state = 'processing'"
        assert await sql.fetchval(stopping) == 2  # the first signal lets them end
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), LIMIT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors
    for message_id in ids:
        message = await overview(sql, message_id)
        assert (message["state"], message["failures"], message["losses"]) == ("queued", 0, 0)
    assert await worker_ids(sql) == []


def test_work_needs_a_migrated_database(empty_dsn: str) -> None:
    done = run_treadle(empty_dsn, "work")
    assert done.returncode == 1
    assert done.stderr == ("Error: The database has no Treadle schema of this release: run treadle migrate.\n")


def test_work_reports_a_missing_agent_module_in_one_sentence(dsn: str) -> None:
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": dsn, "AGENTS": "no_such_module"}
    command = [sys.executable, "-m", "service.cli", "work"]
    done = subprocess.run(
        command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 1
    assert done.stderr == (
        "Error: AGENTS: the module no_such_module cannot be imported: No module named 'no_such_module'.\n"
    )


def test_serve_reports_a_port_in_use_in_one_sentence(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_treadle(dsn, "serve", PORT=str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: PORT: {port} on 127.0.0.1 is in use by another program: set another port.\n"


async def test_a_second_up_is_refused_on_stderr(cli_without_database: Cli, tmp_path: Path) -> None:
    with (tmp_path / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("17\n")
        lock.flush()
        said = error_sentence(await cli_without_database("up", TREADLE_HOME=str(tmp_path)))
    assert said == f"Treadle already runs in {tmp_path}, by process 17."
