"""Worker processes: start them, wait for their end, and make the messages that they run alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from service.config import Settings
from service.db.pool import Connection
from tests.support.messages import submit_many, text
from tests.support.repository import ROOT
from tests.support.waiting import until
from tests.support.workers import worker_ids

# The WORKER_TIMEOUT of a test in which a worker cannot send heartbeats. A killed one is noticed at once by its session.
SOON_LOST = 2.0
LOSE_LEASE = (
    "select treadle._settle_leases(array(select l from treadle.leases l where l.message_id = $1),"
    " 'lost', 'The worker was lost.', 3, treadle.clock())"
)


async def lose_lease(sql: Connection, message_id: UUID) -> None:
    """Take a running message's lease away, as if its worker were lost.

    treadle._settle_leases skips a lease that its worker locks at this moment, to append events or for a heartbeat. So
    it is repeated until the lease is reaped.
    """
    await until(lambda: sql.fetchval(LOSE_LEASE, message_id))


async def submit_lost(sql: Connection, message: Any, losses: int = 1, **fields: Any) -> UUID:
    """Submit a message that was lost before. (No other message waits, so the claim takes this one.)"""
    waiting = "select count(*) from treadle.messages where state = 'queued' and hold is null"
    await until(lambda: sql.fetchval(waiting), lambda count: count == 0)
    async with sql.transaction():
        [message_id] = await submit_many(sql, [{"message": message, "priority": "high", **fields}])
        for _ in range(losses):
            await sql.execute("select treadle.claim('gone', array['default'], 1, 60)")
            assert await sql.fetchval(LOSE_LEASE, message_id)
    return message_id


async def emitted_text(sql: Connection, message_id: UUID) -> str:
    """Wait until the last attempt has emitted something; returns it."""
    return str(await until(lambda: text(sql, message_id)))


async def agent_process(sql: Connection, message_id: UUID) -> int:
    return int((await emitted_text(sql, message_id)).split()[0])


async def processes_ended(*pids: int) -> None:
    """Wait until none of these processes is alive."""
    await until(lambda: [pid for pid in pids if _is_alive(pid)], lambda alive: not alive)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc/self/stat").exists():
        return True
    # A zombie is dead, even where init does not reap it.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it has ended since
        return False


class WorkerProcesses:
    """Worker processes, started by `treadle work`."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log.open("ab")
        self._running: list[subprocess.Popen[bytes]] = []
        self._environ = {
            **os.environ,
            **{
                name.upper(): f"{getattr(settings, name):g}"
                for name in ("poll_interval", "heartbeat_interval", "worker_timeout", "retry_base_seconds")
            },
            "DATABASE_URL": str(settings.database_url),
            "AGENTS": "tests.support.isolated_agents",
            "PYTHONPATH": str(ROOT),
        }

    async def start(self, sql: Connection, **environ: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            [sys.executable, "-m", "service.cli", "work"],
            env={**self._environ, **environ},
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        self._running.append(process)
        await until(lambda: worker_ids(sql), lambda ids: any(f":{process.pid}:" in worker for worker in ids))
        return process

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._log.close()


async def exit_code(process: subprocess.Popen[bytes]) -> int:
    """Wait until the process has ended."""
    return int(await until(process.poll, lambda code: code is not None))
