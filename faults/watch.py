"""How soon what was broken is well again: noted where it is, and complained of where it never is."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from faults.history import Reading, Recovery
from faults.world import World

RECOVERY_SECONDS = 30.0  # in which everything must be well again, whatever else was broken beside it
LOOK_SECONDS = 0.2
TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)  # TimeoutError is an OSError

CHUNK_WRITTEN = """
    select min(created_at) from treadle.events where created_at > $1 and type = 'chunk'
        and message_id > treadle.uuid_at($1 - interval '10 minutes')"""
# Of the messages that were held at $1, the last one's first event of these types since then; $1 where none was held any
# more; null while one is missing.
SEEN_TO = """
    select coalesce(max(e.at), $1) from treadle.messages m left join lateral (
        select min(e.created_at) as at from treadle.events e
        where e.message_id = m.message_id and e.created_at > $1 and e.type = any($3)) e on true
    where m.message_id = any($2) and (m.completed_at is null or m.completed_at > $1)
    having coalesce(bool_and(e.at is not null), true)"""
AGAIN = ["started", "done", "error", "cancelled"]
NOTICED = ["retry", "parked", *AGAIN]


async def held_by(world: World, pid: int) -> list[UUID]:
    """The messages that this worker runs; none where PostgreSQL cannot be asked."""
    question = "select message_id from treadle.leases join treadle.workers using (worker_id) where pid = $1"
    with contextlib.suppress(*TROUBLE):
        connection = await world.cluster.primary.connect(2)
        try:
            return [row["message_id"] for row in await connection.fetch(question, pid)]
        finally:
            await connection.close()
    return []


async def noticed(world: World, held: Sequence[UUID], since: float) -> float | None:
    """Seconds until all that a killed worker held was taken back."""
    return await _note(world, "worker killed to its death noticed", SEEN_TO, since, since, held, NOTICED)


async def picked_up(world: World, held: Sequence[UUID], since: float) -> float | None:
    """Seconds until all of it was begun again, or over."""
    return await _note(world, "worker killed to its messages running again", SEEN_TO, since, since, held, AGAIN)


async def writes_again(world: World, what: str, since: float, moment: float) -> None:
    """Note how long it took from `moment` until an agent's event was written, the first one after `since`."""
    world.clients.send("scribe", chunks=3)  # there may be no other
    await _note(world, f"{what} to the first new event", CHUNK_WRITTEN, since, moment)


async def streams_again(world: World, readings: Sequence[Reading], killed: int, since: float) -> None:
    """Note how long until each of these, cut off from the API at port `killed`, goes on at another."""
    seen = [len(reading.events) for reading in readings]
    waiting = list(zip(readings, seen, strict=True))
    deadline = time.monotonic() + RECOVERY_SECONDS
    while waiting and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        for reading, count in list(waiting):
            if len(reading.events) > count:
                waiting.remove((reading, count))
                if reading.port != killed:  # else it waited for the same one, which runs again
                    seconds = time.time() - since
                    world.history.recoveries.append(Recovery("API killed to a stream going on at another", seconds))
    for reading, _ in waiting:
        late = f"the stream of {reading.message_id} did not go on within {RECOVERY_SECONDS:g} s of its API's death"
        world.history.unwell.append(late)


async def _note(world: World, what: str, question: str, since: float, moment: float, *args: Any) -> float | None:
    """Ask until there is an answer, a time after `since`; note and return how many seconds after `moment` that is."""
    at = datetime.fromtimestamp(since, UTC)
    until = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(*TROUBLE):
            connection = await world.cluster.primary.connect(2)
            try:
                if found := await connection.fetchval(question, at, *args):
                    if found <= at:
                        return None
                    seconds: float = found.timestamp() - moment
                    world.history.recoveries.append(Recovery(what, seconds))
                    return seconds
            finally:
                await connection.close()
        await asyncio.sleep(LOOK_SECONDS)
    world.history.unwell.append(f"{what}: not within {RECOVERY_SECONDS:g} s")
    return None
