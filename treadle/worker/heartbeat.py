"""The heartbeat: a thread with a loop and a connection of its own, so that an agent that blocks the worker's loop does
not count as a death. Agent code that holds the GIL for WORKER_TIMEOUT does: it holds this thread, too."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from treadle.client.errors import NotFound, TreadleError
from treadle.worker.protocol import Leases, Registration, Verdict

log = logging.getLogger(__name__)


class Heartbeat:
    """`held`: the leases that the worker has; called in this thread. `tell` and `gone` are called in the worker's loop:
    with what the server answered, and when it has taken the worker for dead."""

    def __init__(
        self,
        connect: Callable[[], Leases],
        *,
        held: Callable[[], dict[UUID, UUID]],
        tell: Callable[[Sequence[Verdict]], None],
        gone: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._held = held
        self._tell = tell
        self._gone = gone
        self._owner = asyncio.get_running_loop()
        self._registration: Registration | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="treadle-heartbeat", daemon=True)

    def start(self, registration: Registration) -> None:
        """Send heartbeats for this registration, instead of a former one."""
        self._registration = registration
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the worker's loop is closed
            asyncio.run(self._beat())

    async def _beat(self) -> None:
        async with self._connect() as leases:
            while not self._stopping.is_set() and (registration := self._registration) is not None:
                next_at = time.monotonic() + registration.heartbeat_seconds
                await self._send(leases, registration)
                await asyncio.to_thread(self._stopping.wait, max(0.0, next_at - time.monotonic()))

    async def _send(self, leases: Leases, registration: Registration) -> None:
        # Where the network drops packets, the next one goes over a new connection before the worker counts as dead.
        patience_seconds = registration.silence_seconds / 3
        try:
            async with asyncio.timeout(patience_seconds):
                verdicts = await leases.heartbeat(registration.worker_id, self._held())
        except TimeoutError:
            log.warning("heartbeat failed: no answer in %.1f seconds", patience_seconds)
        except NotFound:
            self._owner.call_soon_threadsafe(self._gone, registration.worker_id)
        except TreadleError as error:
            log.warning("heartbeat failed: %s", error)
        else:
            if verdicts:
                self._owner.call_soon_threadsafe(self._tell, verdicts)
