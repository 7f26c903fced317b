"""One LISTEN connection a process. NOTIFY is a hint: what it brings is looked up, what it loses is found by polling."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from service.db.availability import Availability
from service.db.pool import GONE, Connection, connect
from service.errors import NotConnected, Unavailable
from service.waiting import wait_for

log = logging.getLogger(__name__)

PING_SECONDS = 5.0
PING_TIMEOUT = 3.0

LOCK = "select case when pg_try_advisory_lock(treadle.worker_key($1)) then pg_postmaster_start_time() end"


class Listener:
    """Hands each payload to its channel's handler; after every (re)connect calls `wake_all`, for hints were missed.

    With a `worker`, the session also holds that worker's advisory lock, and `server_started` tells on which incarnation
    of the server it does (None while it does not): a lock that is free again means that this process is gone.
    """

    def __init__(
        self,
        dsn: str,
        handlers: Mapping[str, Callable[[str], None]],
        wake_all: Callable[[], None],
        *,
        worker: str | None = None,
        availability: Availability | None = None,
    ) -> None:
        self._dsn = dsn
        self._handlers = handlers
        self._wake_all = wake_all
        self._worker = worker
        self._availability = availability or Availability()
        self.server_started: datetime | None = None
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        delay = 0.1
        while True:
            try:
                connection = await connect(self._dsn, name="listener")
                try:
                    await self._listen(connection)
                finally:
                    if self.connected.is_set():
                        delay = 0.1
                    self.connected.clear()
                    self.server_started = None
                    connection.terminate()
            except Exception as error:  # whatever it is: without us there are only polls, and the worker looks dead
                level = logging.WARNING
                if isinstance(error, NotConnected):
                    self._availability.gone(error)
                    level = error.log_level
                elif isinstance(error, (*GONE, Unavailable)):
                    level = logging.INFO
                extra = {"error": str(error), "seconds": delay}
                log.log(level, "listener lost its connection, trying again", extra=extra)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _listen(self, connection: Connection) -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        for channel in self._handlers:
            await connection.add_listener(channel, self._receive)
        await self._ping(connection)
        self.connected.set()
        self._wake_all()
        while not gone.is_set():
            if not await wait_for(gone, PING_SECONDS):
                await self._ping(connection)
        raise Unavailable("PostgreSQL closed the connection.")

    async def _ping(self, connection: Connection) -> None:
        """Hear from the server; and take the worker's lock, unless a session of ours that the server still believes in
        has it: then at one of the next pings."""
        if self._worker is None or self.server_started is not None:
            await connection.fetchval("select 1", timeout=PING_TIMEOUT)
        else:
            self.server_started = await connection.fetchval(LOCK, self._worker, timeout=PING_TIMEOUT)
        self._availability.back()

    def _receive(self, _connection: Any, _pid: int, channel: str, payload: Any) -> None:
        self._handlers[channel](payload)
