"""Faults of sessions that listen: the queue of NOTIFY belongs to the whole server."""

import asyncio

import asyncpg

from faults.history import Fault
from faults.world import NothingToBreak, World, fault

HOLD_SECONDS = 5.0
FILLER_NOTIFICATIONS = 300  # of 7,600 bytes each: more than the queue has room for (see faults.postgres)


@fault(weight=3, takes="postgres")
async def frozen_listener(world: World, _: Fault) -> None:
    """A session listens and does not read: the queue of NOTIFY is full, and no hint gets through."""
    sleeper = await world.cluster.primary.connect()
    other = await world.cluster.primary.connect()
    try:
        await sleeper.execute("listen nothing")
        await sleeper.execute("begin; select 1")
        try:
            for n in range(FILLER_NOTIFICATIONS):
                await other.execute(f"select pg_notify('filler', repeat('{n:04}', 1900))")
        except asyncpg.ProgramLimitExceededError:
            await asyncio.sleep(HOLD_SECONDS)
        else:
            raise NothingToBreak("the queue of NOTIFY has room left")
    finally:
        await sleeper.close()
        await other.close()
