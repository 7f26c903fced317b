"""The stand-in's own process: it sends a worker's heartbeats while agent code holds the worker.

Until then it only waits for the worker's bytes, so it imports little before it is needed: that halves its memory.
"""

import contextlib
import json
import os
import select
import signal
import time
from enum import Enum
from pathlib import Path
from typing import Literal, NamedTuple

STDIN_DESCRIPTOR = 0
MAX_HELD_SECONDS = 300.0  # after which a worker that cannot run is killed, because nothing else can end it
STOPPED_STATES = frozenset("TtZX")  # of a process: stopped by a signal or a debugger, or dead


class Orders(NamedTuple):
    """What the worker tells its stand-in, in the first line."""

    dsn: str
    pooler: bool
    worker: str
    lease_seconds: float
    interval_seconds: float  # between two heartbeats
    patience_seconds: float  # without a byte of the worker, after which its stand-in acts
    log_level: str
    log_format: Literal["text", "json"]


class Sign(Enum):
    """What the worker's end of the pipe tells."""

    BEAT = "its heartbeat runs"
    SILENCE = "it does not"
    END = "the worker has ended"


def main() -> None:
    """Stand in for the parent process until it closes stdin or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with its worker
    worker = os.getppid()
    orders = Orders(*json.loads(_first_line()))
    sign = Sign.BEAT
    while sign is not Sign.END and os.getppid() == worker:
        sign = _sign(orders.patience_seconds)
        if sign is Sign.SILENCE and _runs(worker):
            import asyncio

            sign = asyncio.run(_stand_in(orders, worker))


async def _stand_in(orders: Orders, worker: int) -> Sign:
    """Send heartbeats until the worker gives a sign. After MAX_HELD_SECONDS without one it is killed."""
    import logging

    from service import logs
    from service.db.pool import Database
    from service.errors import TreadleError
    from service.leases.store import LeaseStore

    logs.configure(orders.log_level, orders.log_format)
    log = logging.getLogger(__name__)
    log.warning("agent code holds the worker: its stand-in sends the heartbeats", extra={"worker_id": orders.worker})
    timeout = max(1.0, orders.patience_seconds)
    database = Database(
        orders.dsn, name="stand-in", size=1, role="treadle_worker", pooler=orders.pooler, command_timeout=timeout
    )
    store = LeaseStore(database)
    since, sign = time.monotonic(), Sign.SILENCE
    while sign is Sign.SILENCE and _runs(worker):
        with contextlib.suppress(TreadleError):  # PostgreSQL is away; the worker's listener tells
            await store.stand_in(orders.worker, orders.lease_seconds)
        if time.monotonic() - since > MAX_HELD_SECONDS:
            log.critical("agent code has held the worker for too long: killing it", extra={"worker_id": orders.worker})
            os.kill(worker, signal.SIGKILL)
        sign = _sign(orders.interval_seconds)
    await database.close()
    return sign


def _runs(pid: int) -> bool:
    """Whether the parent process lives and is not stopped: the messages of a stopped worker are for other workers."""
    if os.getppid() != pid:
        return False
    status = Path(f"/proc/{pid}/stat")
    if status.exists():
        state = status.read_text().rpartition(")")[2].split()[0]
    else:  # not Linux
        import subprocess

        command = ["ps", "-o", "state=", "-p", str(pid)]
        state = subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()
    return state[:1] not in STOPPED_STATES


def _sign(seconds: float) -> Sign:
    """Wait so long for a sign of the worker."""
    if not select.select([STDIN_DESCRIPTOR], [], [], seconds)[0]:
        return Sign.SILENCE
    return Sign.BEAT if os.read(STDIN_DESCRIPTOR, 4096) else Sign.END


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := os.read(STDIN_DESCRIPTOR, 1)):
            os._exit(0)
        line += piece
    return line


if __name__ == "__main__":
    main()
