"""One LISTEN connection a process. NOTIFY is a hint: its receiver reads the tables, and polling finds what it loses."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from service.db.availability import Availability
from service.db.connection import CONNECTION_ERRORS, Connection, Role, connect
from service.errors import NotConnected, Unavailable
from service.waiting import wait_for

log = logging.getLogger(__name__)

PING_INTERVAL_SECONDS = 5.0
PING_TIMEOUT_SECONDS = 3.0

TAKE_WORKER_LOCK = "select case when pg_try_advisory_lock(treadle.worker_key($1)) then pg_postmaster_start_time() end"


class Listener:
    """Hands each payload to its channel's handler, and calls `wake_all` after every (re)connect: hints were missed.

    With a `worker`, the session also holds that worker's advisory lock, and `server_started` is the start time of the
    server that granted it (None without the lock). A lock that is free again means that this process has ended.
    """

    def __init__(
        self,
        dsn: str,
        handlers: Mapping[str, Callable[[str], None]],
        wake_all: Callable[[], None],
        *,
        role: Role | None = None,
        worker: str | None = None,
        availability: Availability | None = None,
    ) -> None:
        self._dsn = dsn
        self._handlers = handlers
        self._wake_all = wake_all
        self._role = role
        self._worker = worker
        self._availability = availability or Availability()
        self.server_started: datetime | None = None
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        delay = 0.1
        while True:
            try:
                connection = await connect(self._dsn, name="listener", role=self._role)
                try:
                    await self._listen(connection)
                finally:
                    if self.connected.is_set():
                        delay = 0.1
                    self.connected.clear()
                    self.server_started = None
                    connection.terminate()
            # Without a listener hints are lost and the worker looks dead: try again after any error.
            except Exception as error:
                level, reason = logging.WARNING, str(error)
                if isinstance(error, NotConnected):
                    self._availability.report_away(error)
                    level, reason = error.log_level, error.reason
                elif isinstance(error, (*CONNECTION_ERRORS, Unavailable)):
                    level = logging.INFO
                extra = {"error": reason, "seconds": delay}
                log.log(level, "listener lost its connection, trying again", extra=extra)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _listen(self, connection: Connection) -> None:
        closed = asyncio.Event()
        connection.add_termination_listener(lambda _: closed.set())
        for channel in self._handlers:
            await connection.add_listener(channel, self._receive)
        await self._ping(connection)
        self.connected.set()
        self._wake_all()
        while not closed.is_set():
            if not await wait_for(closed, PING_INTERVAL_SECONDS):
                await self._ping(connection)
        raise Unavailable("PostgreSQL closed the connection.")

    async def _ping(self, connection: Connection) -> None:
        """Ask the server for an answer, and take the worker's lock.

        A lost session that the server has not ended yet may still hold the lock: then a later ping takes it.
        """
        if self._worker is None or self.server_started is not None:
            await connection.fetchval("select 1", timeout=PING_TIMEOUT_SECONDS)
        else:
            self.server_started = await connection.fetchval(
                TAKE_WORKER_LOCK, self._worker, timeout=PING_TIMEOUT_SECONDS
            )
        self._availability.report_answer()

    def _receive(self, _connection: Any, _pid: int, channel: str, payload: Any) -> None:
        self._handlers[channel](payload)


def to_each(*handlers: Callable[[str], None]) -> Callable[[str], None]:
    """A handler that hands each payload to all of them."""

    def handle(payload: str) -> None:
        for handler in handlers:
            handler(payload)

    return handle
