"""Faults of the database's clock."""

from faults import watch
from faults.history import Fault
from faults.world import World, fault

SHIFT_SECONDS = -3600


@fault(weight=2, takes="postgres", alone=True)
async def clock_back(world: World, record: Fault) -> None:
    """The clock of the database goes back an hour, and forward again once all workers have followed it. Two steps
    between two heartbeats look like an hour without heartbeats, so they may cost losses."""
    server = world.cluster.primary
    settings = server.settings
    record.clock_shift_seconds = SHIFT_SECONDS
    await server.write_settings(f"{settings}\ntreadle.clock_shift = '{SHIFT_SECONDS} seconds'\n")
    try:
        await watch.message_ends(world, "a message after the clock went back", world.clients.send("scribe", chunks=3))
        await watch.heartbeats_follow(world)
    finally:
        await server.write_settings(settings)
    await watch.message_ends(world, "a message after the clock went forward", world.clients.send("scribe", chunks=3))
