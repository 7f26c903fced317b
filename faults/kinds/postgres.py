"""Faults of PostgreSQL: it is crashed, restarted, taken by others, and replaced by its standby."""

import asyncio
import signal
import struct
import time

from faults import watch
from faults.history import Fault
from faults.world import LONGER, NothingToBreak, World, fault

OURS = "application_name like 'treadle%'"
HOLD_SECONDS = 3.0
GRABBERS = 20  # at once
SEATS = 1000  # far more than there are
HELLO = b"user\0treadle\0database\0treadle\0application_name\0greedy\0\0"
STARTUP = struct.pack("!II", 8 + len(HELLO), 3 << 16) + HELLO  # PostgreSQL documentation, "Message Formats"


@fault(weight=3, takes="postgres", cuts_off=True)
async def crash_postgres(world: World, _: Fault) -> None:
    """PostgreSQL is stopped at once (it has to recover) and started again."""
    await _outage(world, signal.SIGQUIT, 0)


@fault(weight=2, takes="postgres", cuts_off=True)
async def crash_postgres_for_long(world: World, _: Fault) -> None:
    """The same for longer than WORKER_TIMEOUT: nobody who lives may be reaped for it."""
    await _outage(world, signal.SIGQUIT, LONGER)


@fault(weight=3, takes="postgres", cuts_off=True)
async def restart_postgres(world: World, _: Fault) -> None:
    """PostgreSQL is restarted as administrators do it."""
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
    """Others take every connection there is, then ours are ended and others take these, too, for some seconds."""
    connection = await world.cluster.primary.connect()
    greedy = _Greedy(world.cluster.primary.port)
    try:
        await greedy.take(until_refused=True)
        ended = await connection.fetchval(f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {OURS}")
        before = len(greedy.seats)
        taking = asyncio.create_task(greedy.take(until_refused=False))
        until = time.monotonic() + HOLD_SECONDS
        while time.monotonic() < until:  # who was quicker than they has it for a moment only
            await asyncio.sleep(0.1)
            await connection.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {OURS}")
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        if not ended or len(greedy.seats) <= before:
            raise NothingToBreak(f"{ended} connections of ours were ended, {len(greedy.seats) - before} of them taken")
    finally:
        greedy.let_go()
        await connection.close()


@fault(weight=2, takes="postgres", cuts_off=True)
async def fail_over(world: World, _: Fault) -> None:
    """The primary is destroyed, its synchronous standby promoted; later it gets a standby again."""
    standby = world.cluster.standby
    if standby is None:
        raise NothingToBreak("there is no standby")
    destroyed = time.time()
    await world.cluster.primary.stop(signal.SIGQUIT)
    gone = time.time()
    await world.cluster.fail_over(standby)
    await watch.writes_again(world, "primary destroyed", gone, destroyed)
    await world.cluster.follow()


class _Greedy:
    """Takes connections by the bare protocol: dozens in the moment in which a client with manners opens one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.seats: list[asyncio.StreamWriter] = []

    async def take(self, *, until_refused: bool) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(GRABBERS):
                group.create_task(self._grab(until_refused))

    def let_go(self) -> None:
        for seat in self.seats:
            seat.transport.abort()

    async def _grab(self, until_refused: bool) -> None:
        while len(self.seats) < SEATS:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                writer.write(STARTUP)
                taken = await reader.read(1) == b"R"  # else an error, or nothing: there is no room
            except BaseException:
                writer.transport.abort()
                raise
            if taken:
                self.seats.append(writer)
                continue
            writer.transport.abort()
            if until_refused:
                return
            await asyncio.sleep(0.01)


async def _outage(world: World, number: signal.Signals, seconds: float) -> None:
    primary = world.cluster.primary
    await primary.stop(number)
    gone = time.time()
    await asyncio.sleep(seconds)
    started = time.time()
    await primary.start()
    await watch.writes_again(world, "PostgreSQL started", gone, started)
