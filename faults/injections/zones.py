"""Faults of a server's settings: a time zone with summer time, JIT, another way to write dates."""

import asyncpg

from faults.history import Fault
from faults.world import NothingToBreak, World, fault

UNUSUAL = {"timezone": "Europe/Berlin", "datestyle": "German", "jit": "on", "jit_above_cost": "0"}
DAYS = [f"2030-03-{day}" for day in range(29, 32)] + [f"2030-10-{day}" for day in range(26, 29)]
MAX_TRIES = 20  # a reader of the log may be in the way for a moment


@fault(weight=2, takes="postgres")
async def summer_time(world: World, _: Fault) -> None:
    """The server gets a time zone with summer time, German dates and JIT; partitions are made around the change."""
    server = world.cluster.primary
    await server.execute(
        *(f"alter system set {name} = '{value}'" for name, value in UNUSUAL.items()), "select pg_reload_conf()"
    )
    try:
        connection = await server.connect()
        try:
            made = sum([await _ensure_partitions(connection, day) for day in DAYS])
        finally:
            await connection.close()
    finally:
        await server.execute(*(f"alter system reset {name}" for name in UNUSUAL), "select pg_reload_conf()")
    if not made:
        raise NothingToBreak("the partitions of these days were there already")


async def _ensure_partitions(connection: "asyncpg.Connection[asyncpg.Record]", day: str) -> int:
    await connection.execute(
        "select set_config('treadle.clock_shift',"
        f" extract(epoch from timestamptz '{day} 12:00Z' - clock_timestamp())::bigint || ' seconds', false)"
    )
    for left in reversed(range(MAX_TRIES)):
        try:
            return int(await connection.fetchval("select treadle.ensure_partitions()"))
        except asyncpg.LockNotAvailableError:
            if not left:
                raise
    return 0
