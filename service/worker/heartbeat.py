"""The heartbeat: a thread with its own event loop and connection, so that agent code that blocks the worker's loop is a
stall, not a death. While agent code holds the GIL, and with it this thread, the worker's stand-in sends them."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from service.config import Settings
from service.db.availability import Availability
from service.db.connection import COMMAND_TIMEOUT_SECONDS
from service.db.pool import Database
from service.errors import TreadleError
from service.leases.model import HeartbeatReport, Verdict
from service.leases.store import LeaseStore
from service.waiting import wait_for
from service.worker.stand_in.link import StandIn

log = logging.getLogger(__name__)

STALL_SECONDS = 300.0  # after which a process whose loop is blocked ends itself, because nothing else can unblock it
STALLED_EXIT_CODE = 70
RETRY_SECONDS = 0.25  # after a failed heartbeat
CLAIM_GRACE_SECONDS = 5.0  # for which a claim may be missing from the report
JOIN_SECONDS = 5.0


class HeartbeatSource(Protocol):
    """The worker, as the heartbeat sees it. Called in the heartbeat's thread."""

    def report(self) -> HeartbeatReport: ...

    @property
    def is_claiming(self) -> bool:
        """Whether a claim is in flight."""

    @property
    def loop_ran_at(self) -> float:
        """When the worker's event loop last ran, by time.monotonic()."""

    def receive_answer(self, report: HeartbeatReport, verdicts: Sequence[Verdict]) -> None:
        """The report is stored. `verdicts`: leases whose attempts must end."""


class Heartbeat:
    """Sends heartbeats from `start` to `stop`."""

    def __init__(
        self,
        *,
        settings: Settings,
        dsn: str,
        lease_seconds: float,
        availability: Availability,
        stand_in: StandIn | None = None,
    ) -> None:
        self._settings = settings
        self._dsn = dsn
        self._lease_seconds = lease_seconds
        self._availability = availability
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._stalls = 0
        self._stand_in = stand_in
        self._ended = asyncio.Event()

    def start(self, source: HeartbeatSource) -> None:
        if self._stand_in is not None:
            self._stand_in.start(source.report().worker)
        self._loop = asyncio.new_event_loop()
        arguments = (self._loop, source, asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._run, args=arguments, name="heartbeat", daemon=True)
        self._thread.start()

    def send_soon(self) -> None:
        """Send the next heartbeat now: a message may have been cancelled. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the worker stops
                self._loop.call_soon_threadsafe(self._wake.set)

    async def stop(self) -> None:
        self._stopping = True
        self.send_soon()
        if self._thread is not None:
            # Not in the loop's threads, which agent code may hold.
            await wait_for(self._ended, JOIN_SECONDS)
        if self._stand_in is not None:
            self._stand_in.close()

    def _run(self, loop: asyncio.AbstractEventLoop, source: HeartbeatSource, owner: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._send_until_stopped(source))
        finally:
            loop.close()
            with contextlib.suppress(RuntimeError):  # the worker's loop is closed
                owner.call_soon_threadsafe(self._ended.set)

    async def _send_until_stopped(self, source: HeartbeatSource) -> None:
        database = self._connect()
        store = LeaseStore(database)
        while not self._stopping:
            self._wake.clear()
            self._end_if_stalled(source)
            if self._stand_in is not None:
                self._stand_in.tell_alive()
            await wait_for(self._wake, await self._send(store, source))
        await database.close()

    def _connect(self) -> Database:
        return Database(
            self._dsn,
            name="heartbeat",
            size=1,
            role="treadle_worker",
            pooler=self._settings.database_pooler == "transaction",
            # A dead connection must be noticed while there is still time for a heartbeat on another one.
            command_timeout=max(1.0, min(COMMAND_TIMEOUT_SECONDS, self._settings.worker_timeout / 3)),
            availability=self._availability,
        )

    async def _send(self, store: LeaseStore, source: HeartbeatSource) -> float:
        """Send one heartbeat; returns the seconds to the next one."""
        # At least as often as the poll: a cancellation whose hint was lost is learned here.
        pause = min(self._settings.heartbeat_interval, self._settings.poll_interval)
        try:
            # Read before the report: a claim that ends between the two is in the report.
            grace = None if source.is_claiming else CLAIM_GRACE_SECONDS
            report = source.report()
            verdicts = await store.heartbeat(
                report,
                interval=self._settings.heartbeat_interval,
                lease_seconds=self._lease_seconds,
                grace=grace,
            )
            source.receive_answer(report, verdicts)
        except TreadleError as error:
            log.log(error.log_level, "heartbeat failed", extra={"error": str(error)})
            return min(pause, RETRY_SECONDS)  # a worker that briefly loses its connection is not declared dead
        except Exception:  # without heartbeats the worker would be declared dead
            log.exception("heartbeat failed")
        return pause

    def _end_if_stalled(self, source: HeartbeatSource) -> None:
        # Twice in a row: right after a SIGSTOP the loop has not run yet.
        self._stalls = self._stalls + 1 if time.monotonic() - source.loop_ran_at > STALL_SECONDS else 0
        if self._stalls == 2:
            log.critical("an agent has blocked the loop for too long: ending", extra={"seconds": STALL_SECONDS})
            os._exit(STALLED_EXIT_CODE)


def resident_bytes() -> int | None:
    """The memory of this process that is in RAM; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
