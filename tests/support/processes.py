"""What tests of agents in processes of their own share: messages that were lost before, workers as people start them,
and what becomes of processes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from service.config import Settings
from service.db.pool import Connection
from tests.conftest import until
from tests.support.harness import submit_many, text, workers

TAKE_AWAY = (
    "select treadle._take_back(array(select l from treadle.leases l where l.message_id = $1),"
    " 'lost', 'The worker was lost.', 3, treadle.clock())"
)


async def lose(sql: Connection, message: Any, losses: int = 1, **fields: Any) -> UUID:
    """Submit a message that has been lost before. (The one claimed is this one, for no other waits.)"""
    waiting = "select count(*) from treadle.messages where state = 'queued' and hold is null"
    await until(lambda: sql.fetchval(waiting), lambda count: count == 0)
    async with sql.transaction():
        [message_id] = await submit_many(sql, [{"message": message, "priority": "high", **fields}])
        for _ in range(losses):
            await sql.execute("select treadle.claim('gone', array['default'], 1, 60)")
            assert await sql.fetchval(TAKE_AWAY, message_id)
    return message_id


async def emitted(sql: Connection, message_id: UUID) -> str:
    """What its last attempt has emitted, once there is something."""
    return str(await until(lambda: text(sql, message_id)))


async def process_of(sql: Connection, message_id: UUID) -> int:
    return int((await emitted(sql, message_id)).split()[0])


async def gone(*pids: int) -> None:
    async def alive() -> list[int]:
        return [pid for pid in pids if _is_alive(pid)]

    await until(alive, lambda found: not found)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Dead, but not buried by an init that does not care.
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


class Processes:
    """Workers as people start them."""

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
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }

    async def start(self, sql: Connection, **environ: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes a millisecond
            [sys.executable, "-m", "service.cli", "work"],
            env={**self._environ, **environ},
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        self._running.append(process)
        await until(lambda: workers(sql), lambda ids: any(f":{process.pid}:" in worker for worker in ids))
        return process

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()
        self._log.close()


async def ended(process: subprocess.Popen[bytes]) -> int:
    async def code() -> int | None:
        return process.poll()

    return int(await until(code, lambda found: found is not None))
