"""The heartbeat: a thread with a loop and a connection of its own, so that an agent that blocks the worker's loop does
not count as a death. Agent code that holds the GIL for WORKER_TIMEOUT does: it holds this thread, too."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from treadle.client.errors import NotFound, TreadleError
from treadle.worker.protocol import Leases, Registration, Verdict

log = logging.getLogger(__name__)


class HeartbeatOwner(Protocol):
    """The session, as its heartbeat sees it."""

    def connect(self) -> Leases:
        """A new connection to the server. Called in the heartbeat's thread."""

    def held_leases(self) -> dict[UUID, UUID]:
        """The lease of each message that the worker has. Called in the heartbeat's thread."""

    def obey(self, verdicts: Sequence[Verdict]) -> None:
        """The server says which attempts must end. Called in the worker's loop."""

    def declare_lost(self, worker_id: str) -> None:
        """The server has taken the worker of this id for dead. Called in the worker's loop."""


class Heartbeat:
    """Sends heartbeats from `start` to `stop`. Created in the worker's loop."""

    def __init__(self, owner: HeartbeatOwner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()  # the worker's
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
            asyncio.run(self._run_heartbeats())

    async def _run_heartbeats(self) -> None:
        async with self._owner.connect() as leases:
            while not self._stopping.is_set() and (registration := self._registration) is not None:
                next_at = time.monotonic() + registration.heartbeat_seconds
                await self._send(leases, registration)
                await asyncio.to_thread(self._stopping.wait, max(0.0, next_at - time.monotonic()))

    async def _send(self, leases: Leases, registration: Registration) -> None:
        # Where the network drops packets, the next one goes over a new connection before the worker counts as dead.
        patience_seconds = registration.silence_seconds / 3
        try:
            async with asyncio.timeout(patience_seconds):
                verdicts = await leases.heartbeat(registration.worker_id, self._owner.held_leases())
        except TimeoutError:
            log.warning("heartbeat failed: no answer in %.1f seconds", patience_seconds)
        except NotFound:
            self._loop.call_soon_threadsafe(self._owner.declare_lost, registration.worker_id)
        except TreadleError as error:
            log.warning("heartbeat failed: %s", error)
        else:
            if verdicts:
                self._loop.call_soon_threadsafe(self._owner.obey, verdicts)
