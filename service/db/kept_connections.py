"""Connections that wait between two calls outside asyncpg's pool.

The pool takes a connection back in a separate task, which takes three turns of the event loop. In a process that is
busy a turn takes milliseconds, and the call has its answer only then.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncpg

log = logging.getLogger(__name__)

# Then the pool has the connection again: it replaces those that expired or made 50,000 queries, and closes idle ones.
KEPT_SECONDS = 1.0
# That a failed call waits until its command is cancelled; then its connection is dropped.
CANCEL_TIMEOUT_SECONDS = 2.0


class KeptConnections:
    """The connections of a pool. One that has served its call is kept for the next one, unless a call waits for one."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._pool = pool
        # Connections taken from the pool, and when, by time.monotonic(); -inf: it goes back when its call has ended.
        self._taken: dict[Any, float] = {}
        self._expiries = 0  # how often all connections expired: one that was being opened meanwhile is not kept
        self._idle: list[Any] = []  # those of them that are kept
        self._waiting = 0  # calls that ask the pool
        self._timer: asyncio.TimerHandle | None = None
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def counts(self) -> tuple[int, int]:
        """How many are in use, and how many are idle."""
        idle = self._pool.get_idle_size() + sum(map(_is_open, self._idle))
        return self._pool.get_size() - idle, idle

    @contextlib.asynccontextmanager
    async def lend(self, seconds: float) -> AsyncIterator[Any]:
        """A connection for one call; raises TimeoutError if none is free or can be opened within `seconds`."""
        connection = await self._take(seconds)
        try:
            yield connection
        except BaseException:
            # Its command may have to be cancelled. An error of that must not replace this one, which may be the
            # cancellation of the caller's task.
            await self._release_logged(connection)
            raise
        if self._waiting or time.monotonic() > self._taken[connection] + KEPT_SECONDS:
            # Awaited, so that the next call finds this connection in the pool, and opens no other one.
            await self._release_logged(connection)
        else:
            self._keep(connection)

    async def expire(self) -> None:
        """Lend no present connection again; those in use are closed when their calls have ended."""
        await self._pool.expire_connections()
        self._keep_none()

    async def close(self, seconds: float) -> None:
        """Close all connections; those whose calls have not ended within `seconds` are cut off."""
        self._keep_none()
        try:
            await asyncio.wait_for(self._pool.close(), seconds)
        except TimeoutError:
            self._pool.terminate()

    async def _take(self, seconds: float) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if _is_open(connection):
                return connection
            self._release_soon([connection])
        expiries = self._expiries
        self._waiting += 1
        try:
            connection = await self._pool.acquire(timeout=seconds)
        finally:
            self._waiting -= 1
        self._taken[connection] = time.monotonic() if self._expiries == expiries else -math.inf
        return connection

    def _keep(self, connection: Any) -> None:
        self._idle.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._release_idle)

    def _keep_none(self) -> None:
        """Give the connections back to the pool: those in use when their calls have ended."""
        self._expiries += 1
        self._taken = dict.fromkeys(self._taken, -math.inf)
        self._release_idle()

    async def _release(self, connection: Any) -> None:
        del self._taken[connection]
        await self._pool.release(connection, timeout=CANCEL_TIMEOUT_SECONDS)

    def _release_idle(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        idle, self._idle = self._idle, []
        self._release_soon(idle)

    def _release_soon(self, connections: Iterable[Any]) -> None:
        for connection in connections:
            task = asyncio.create_task(self._release_logged(connection))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _release_logged(self, connection: Any) -> None:
        try:
            await self._release(connection)
        except Exception as error:  # the pool has closed it
            log.debug("a connection was not given back", extra={"error": str(error)})


def _is_open(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the pool has dropped it, because it broke
        return False
