"""The heartbeat: a thread with its own event loop and connection, so that agent code that blocks the worker's loop is a
stall, not a death."""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence

from service.config import Settings
from service.db.availability import Availability
from service.db.pool import COMMAND_TIMEOUT, Database
from service.errors import TreadleError
from service.leases.store import Heartbeat, Verdict, beat
from service.waiting import wait_for

log = logging.getLogger(__name__)

STALL_SECONDS = 300.0  # for which the worker's loop may be blocked; then the process ends, for nobody else can mend it
STALLED = 70  # its exit code
AGAIN_SECONDS = 0.25  # after a beat that failed
CLAIM_GRACE = 5.0  # seconds for which a finished claim may still be unknown to the heartbeat


class Pulse:
    """Beats until stopped. `describe` (called in the thread) says who we are and what we hold; `judge` (called in the
    thread) is handed the verdicts; `claiming_since` is the time.monotonic() at which a claim under way began, or
    None; `seen` that at which the worker's loop last ran."""

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        lease_seconds: float,
        describe: Callable[[], Heartbeat],
        claiming_since: Callable[[], float | None],
        judge: Callable[[Sequence[Verdict]], None],
        seen: Callable[[], float],
        availability: Availability,
    ) -> None:
        self._settings = settings
        self._dsn = dsn
        self._lease_seconds = lease_seconds
        self._describe = describe
        self._claiming_since = claiming_since
        self._judge = judge
        self._seen = seen
        self._availability = availability
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def now(self) -> None:
        """Beat at once: somebody hinted at a cancellation. From any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are stopping
                self._loop.call_soon_threadsafe(self._wake.set)

    async def stop(self) -> None:
        self._stopping = True
        self.now()
        await asyncio.to_thread(self._thread.join, 5)

    def _run(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._beat())
        finally:
            self._loop.close()

    async def _beat(self) -> None:
        # A cancellation whose hint was lost is learned here, hence no less often than the poll.
        pause = min(self._settings.heartbeat_interval, self._settings.poll_interval)
        pooler = self._settings.database_pooler == "transaction"
        # A dead connection must be noticed while there is still time to beat on another.
        patience = max(1.0, min(COMMAND_TIMEOUT, self._settings.worker_timeout / 3))
        database = Database(
            self._dsn,
            name="heartbeat",
            size=1,
            pooler=pooler,
            command_timeout=patience,
            availability=self._availability,
        )
        stalled = 0
        while not self._stopping:
            self._wake.clear()
            wait = pause
            # Twice in a row: after a SIGSTOP the loop may not have had its turn yet.
            stalled = stalled + 1 if time.monotonic() - self._seen() > STALL_SECONDS else 0
            if stalled == 2:
                log.critical("an agent has blocked the loop for too long: ending", extra={"seconds": STALL_SECONDS})
                os._exit(STALLED)
            since = self._claiming_since()
            grace = CLAIM_GRACE + (time.monotonic() - since if since is not None else 0)
            try:
                verdicts = await beat(
                    database, self._describe(), self._settings.heartbeat_interval, self._lease_seconds, grace
                )
                self._judge(verdicts)
            except TreadleError as error:
                log.log(error.log_level, "heartbeat failed", extra={"error": str(error)})
                wait = min(pause, AGAIN_SECONDS)  # who is cut off for a moment must not be taken for dead
            except Exception:  # a worker that stops beating is taken for dead
                log.exception("heartbeat failed")
            await wait_for(self._wake, wait)
        await database.close()
