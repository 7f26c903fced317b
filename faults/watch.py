"""Measure how soon the service recovers from a fault, and record what does not recover."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from faults.history import Reading, Recovery, Sent
from faults.postgres import DATABASE_ERRORS
from faults.world import World

RECOVERY_SECONDS = 30.0  # everything must recover within this time, whatever other faults there are
POLL_SECONDS = 0.2

CHUNK_WRITTEN = """
    select min(created_at) from treadle.events where created_at > $1 and type = 'chunk'
        and message_id > treadle.uuid_at($1 - interval '10 minutes')"""
# Of the messages that the worker held at $1: when the last of them had its first event of these types; $1 if the worker
# held no message; null while one of them has no such event.
SEEN_TO = """
    select coalesce(max(e.at), $1) from treadle.messages m left join lateral (
        select min(e.created_at) as at from treadle.events e
        where e.message_id = m.message_id and e.created_at > $1 and e.type = any($3)) e on true
    where m.message_id = any($2) and (m.completed_at is null or m.completed_at > $1)
    having coalesce(bool_and(e.at is not null), true)"""
ENDED = "select completed_at is not null from treadle.messages where metadata ->> 'key' = $1"
HEARTBEATS_FOLLOW = """
    select not exists (select from treadle.workers where reported_at > treadle.clock() + interval '1 minute')"""
RUNNING_AGAIN_EVENTS = ["started", "done", "error", "cancelled"]
LOSS_NOTICED_EVENTS = ["retry", "parked", *RUNNING_AGAIN_EVENTS]


async def held_by(world: World, pid: int) -> list[UUID]:
    """The messages that this worker runs; empty if PostgreSQL does not answer."""
    question = "select message_id from treadle.leases join treadle.workers using (worker_id) where pid = $1"
    with contextlib.suppress(*DATABASE_ERRORS):
        connection = await world.cluster.primary.connect(2)
        try:
            return [row["message_id"] for row in await connection.fetch(question, pid)]
        finally:
            await connection.close()
    return []


async def noticed(world: World, held: Sequence[UUID], since: float) -> float | None:
    """Seconds until all messages of a killed worker were reaped."""
    return await _note(world, "worker killed to its death noticed", SEEN_TO, since, since, held, LOSS_NOTICED_EVENTS)


async def picked_up(world: World, held: Sequence[UUID], since: float) -> float | None:
    """Seconds until all messages of a killed worker were running again, or over."""
    return await _note(
        world, "worker killed to its messages running again", SEEN_TO, since, since, held, RUNNING_AGAIN_EVENTS
    )


async def writes_again(world: World, what: str, since: float, moment: float) -> None:
    """Record the seconds from `moment` to the first event that an agent wrote after `since`."""
    world.clients.send("scribe", chunks=3)  # no other message may be running
    await _note(world, f"{what} to the first new event", CHUNK_WRITTEN, since, moment)


async def message_ends(world: World, what: str, sent: Sent) -> None:
    """Record the seconds until this message, which was just sent, has ended."""
    seconds = await _seconds_until(world, ENDED, sent.key)
    if seconds is None:
        world.history.not_recovered.append(f"{what} did not end within {RECOVERY_SECONDS:g} s")
    else:
        world.history.recoveries.append(Recovery(what, seconds))


async def heartbeats_follow(world: World) -> None:
    """Wait until each living worker has sent a heartbeat by the clock that was set back."""
    if await _seconds_until(world, HEARTBEATS_FOLLOW) is None:
        world.history.not_recovered.append(f"heartbeats did not follow the clock within {RECOVERY_SECONDS:g} s")


async def _seconds_until(world: World, question: str, *args: Any) -> float | None:
    """Until PostgreSQL answers true; None if it does not in time."""
    began = time.monotonic()
    while time.monotonic() < began + RECOVERY_SECONDS:
        with contextlib.suppress(*DATABASE_ERRORS):
            connection = await world.cluster.primary.connect(2)
            try:
                if await connection.fetchval(question, *args):
                    return time.monotonic() - began
            finally:
                await connection.close()
        await asyncio.sleep(POLL_SECONDS)
    return None


async def streams_again(world: World, readings: Sequence[Reading], killed: int, since: float) -> None:
    """Record how soon each of these readings, cut off from the API at port `killed`, continues at another API."""
    seen = [len(reading.events) for reading in readings]
    waiting = list(zip(readings, seen, strict=True))
    deadline = time.monotonic() + RECOVERY_SECONDS
    while waiting and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
        for reading, count in list(waiting):
            if len(reading.events) > count:
                waiting.remove((reading, count))
                if reading.port != killed:  # else the same API runs again
                    seconds = time.time() - since
                    world.history.recoveries.append(
                        Recovery("API killed to its streams continuing at another", seconds)
                    )
    for reading, _ in waiting:
        late = f"the stream of {reading.message_id} did not continue within {RECOVERY_SECONDS:g} s of its API's death"
        world.history.not_recovered.append(late)


async def _note(world: World, what: str, question: str, since: float, moment: float, *args: Any) -> float | None:
    """Ask until the answer is a time after `since`; record and return the seconds from `moment` to it."""
    at = datetime.fromtimestamp(since, UTC)
    until = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(*DATABASE_ERRORS):
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
        await asyncio.sleep(POLL_SECONDS)
    world.history.not_recovered.append(f"{what}: not within {RECOVERY_SECONDS:g} s")
    return None
