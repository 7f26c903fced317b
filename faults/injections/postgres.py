"""Faults of PostgreSQL: it crashes, restarts, has no free connection, or is replaced by its standby."""

import asyncio
import signal
import struct
import time

from faults import watch
from faults.history import Fault
from faults.world import LONG_SILENCE_SECONDS, NothingToBreak, World, fault

TREADLE_CONNECTIONS = "application_name like 'treadle%'"
HOLD_SECONDS = 3.0
GRABBER_TASKS = 20
MAX_CONNECTIONS = 1000  # far more than the server has
# PostgreSQL documentation, "Message Formats"
STARTUP_PARAMETERS = b"user\0treadle\0database\0treadle\0application_name\0greedy\0\0"
STARTUP_MESSAGE = struct.pack("!II", 8 + len(STARTUP_PARAMETERS), 3 << 16) + STARTUP_PARAMETERS


@fault(weight=3, takes="postgres", cuts_off=True)
async def crash_postgres(world: World, _: Fault) -> None:
    """PostgreSQL is stopped at once (it has to recover) and started again."""
    await _outage(world, signal.SIGQUIT, 0)


@fault(weight=2, takes="postgres", cuts_off=True)
async def crash_postgres_for_long(world: World, _: Fault) -> None:
    """The same for longer than WORKER_TIMEOUT: no living worker may be reaped."""
    await _outage(world, signal.SIGQUIT, LONG_SILENCE_SECONDS)


@fault(weight=3, takes="postgres", cuts_off=True)
async def restart_postgres(world: World, _: Fault) -> None:
    """PostgreSQL is restarted by a fast shutdown."""
    await _outage(world, signal.SIGINT, 0)


@fault(takes="postgres", cuts_off=True)
async def terminate_backends(world: World, _: Fault) -> None:
    """Every connection to PostgreSQL is ended by pg_terminate_backend."""
    connection = await world.cluster.primary.connect()
    try:
        ended = await connection.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
    finally:
        await connection.close()
    if not ended:
        raise NothingToBreak("there was no connection")


@fault(weight=2, takes="postgres", lethal=True, zombies=True)
async def exhaust_connections(world: World, _: Fault) -> None:
    """Other clients take every free connection, then those of Treadle too, for some seconds."""
    connection = await world.cluster.primary.connect()
    grabber = _ConnectionGrabber(world.cluster.primary.port)
    try:
        await grabber.take(until_refused=True)
        ended = await connection.fetchval(
            f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {TREADLE_CONNECTIONS}"
        )
        before = len(grabber.writers)
        taking = asyncio.create_task(grabber.take(until_refused=False))
        until = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < until:  # a quicker process of Treadle keeps a connection for a moment only
            await asyncio.sleep(0.1)
            await connection.execute(
                f"select pg_terminate_backend(pid) from pg_stat_activity where {TREADLE_CONNECTIONS}"
            )
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not ended or len(grabber.writers) <= before:
            raise NothingToBreak(f"{ended} connections were ended, {len(grabber.writers) - before} taken")
    finally:
        grabber.release()
        await connection.close()


@fault(weight=2, takes="postgres", cuts_off=True)
async def fail_over(world: World, _: Fault) -> None:
    """The primary is destroyed and its synchronous standby promoted; later it gets a standby again."""
    standby = world.cluster.standby
    if standby is None:
        raise NothingToBreak("there is no standby")
    destroyed = time.time()
    await world.cluster.primary.stop(signal.SIGQUIT)
    stopped = time.time()
    await world.cluster.fail_over(standby)
    await watch.writes_again(world, "primary destroyed", stopped, destroyed)
    await world.cluster.follow()


class _ConnectionGrabber:
    """Takes connections by the plain protocol: dozens in the time that a full client needs for one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.writers: list[asyncio.StreamWriter] = []

    async def take(self, *, until_refused: bool) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(GRABBER_TASKS):
                group.create_task(self._grab(until_refused))

    def release(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def _grab(self, until_refused: bool) -> None:
        while len(self.writers) < MAX_CONNECTIONS:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(STARTUP_MESSAGE)
                taken = await reader.read(1) == b"R"  # else an error, or nothing: no connection is free
            except BaseException:
                writer.transport.abort()
                raise
            if taken:
                self.writers.append(writer)
                continue
            writer.transport.abort()
            if until_refused:
                return
            await asyncio.sleep(0.01)


async def _outage(world: World, number: signal.Signals, seconds: float) -> None:
    primary = world.cluster.primary
    await primary.stop(number)
    stopped = time.time()
    await asyncio.sleep(seconds)
    started = time.time()
    await primary.start()
    await watch.writes_again(world, "PostgreSQL started", stopped, started)
