"""Faults of remote workers, which reach an API over HTTP only: one is killed, stopped or cut off while it runs
messages, and another one takes over.

They run alone: each of the two workers knows the API of one node only, and is lost as well while that node restarts.
"""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from uuid import UUID

from faults import watch
from faults.history import Fault, Recovery, Sent
from faults.nodes import signal_to
from faults.postgres import DATABASE_ERRORS
from faults.proxy import Proxy
from faults.remote import AGENT, remote_worker
from faults.world import LONG_SILENCE_SECONDS, VICTIM_SECONDS, NothingToBreak, World, fault

SENT_MESSAGES = 6
SENT_CHUNKS, PAUSE_SECONDS = 40, 0.1  # long enough to be broken in the middle
END_SECONDS = 60.0  # every message of the fault ends within this time
WORKERS = "select count(*) from treadle.workers where $1 = any(agents)"
ENDED = "select count(*) from treadle.messages where metadata ->> 'key' = any($1) and completed_at is not null"


@fault(alone=True, lethal=True)
async def kill_remote_worker(world: World, record: Fault) -> None:
    """kill -9 of a remote worker that runs messages; another one takes them over."""
    async with _pair(world) as (victim, _):
        held = await _held(world, victim)
        since = time.time()
        if not signal_to(victim.pid, signal.SIGKILL):
            raise NothingToBreak("the worker had ended")
        await watch.picked_up(world, held, since)


@fault(alone=True, lethal=True, zombies=True)
async def stop_remote_worker(world: World, _record: Fault) -> None:
    """SIGSTOP of a remote worker for longer than WORKER_TIMEOUT, then SIGCONT: a zombie that writes nothing."""
    async with _pair(world) as (victim, _):
        await _held(world, victim)
        if not signal_to(victim.pid, signal.SIGSTOP):
            raise NothingToBreak("the worker had ended")
        try:
            await asyncio.sleep(LONG_SILENCE_SECONDS)
        finally:
            signal_to(victim.pid, signal.SIGCONT)


@fault(alone=True, lethal=True, zombies=True)
async def cut_remote_worker(world: World, _: Fault) -> None:
    """The network of a remote worker is away for longer than WORKER_TIMEOUT; its agents go on meanwhile."""
    async with _pair(world) as (victim, proxy):
        await _held(world, victim)
        proxy.freeze()
        try:
            await asyncio.sleep(LONG_SILENCE_SECONDS)
        finally:
            proxy.thaw()


@contextlib.asynccontextmanager
async def _pair(world: World) -> AsyncIterator[tuple["subprocess.Popen[bytes]", Proxy]]:
    """A remote worker that runs messages, and its proxy. Another one at another node comes then. Both end with the
    block, when all messages have ended."""
    first, other = world.rng.sample(world.nodes, 2) if len(world.nodes) > 1 else world.nodes * 2
    journal, log = (first.log.with_name(name) for name in ("journal", "remote.log"))
    proxy = Proxy(first.port)
    await proxy.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(proxy.close)
        victim = await stack.enter_async_context(remote_worker(proxy.port, journal, log))
        await _until(world, WORKERS, AGENT)
        sent = [
            world.clients.send(AGENT, follow=True, chunks=SENT_CHUNKS, pause=PAUSE_SECONDS)
            for _ in range(SENT_MESSAGES)
        ]
        try:
            await _held(world, victim)
            await stack.enter_async_context(remote_worker(other.api_proxy.port, journal, log))
            yield victim, proxy
        finally:  # what was sent must end, whatever becomes of the victim
            await stack.enter_async_context(remote_worker(other.api_proxy.port, journal, log))
            await _ended(world, sent)


async def _held(world: World, victim: "subprocess.Popen[bytes]") -> list[UUID]:
    """The messages that it runs."""
    until = time.monotonic() + VICTIM_SECONDS
    while time.monotonic() < until:
        if held := await watch.held_by(world, victim.pid):
            return held
        await asyncio.sleep(0.1)
    raise NothingToBreak("the remote worker runs no message")


async def _ended(world: World, sent: list[Sent]) -> None:
    began = time.monotonic()
    if await _until(world, ENDED, [one.key for one in sent], wanted=len(sent), seconds=END_SECONDS):
        world.history.recoveries.append(Recovery("messages of a remote worker ended", time.monotonic() - began))
    else:
        world.history.not_recovered.append(f"messages of a remote worker did not end within {END_SECONDS:g} s")


async def _until(
    world: World, question: str, argument: object, *, wanted: int = 1, seconds: float = VICTIM_SECONDS
) -> bool:
    """Whether the count became as large as wanted in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(*DATABASE_ERRORS):
            connection = await world.cluster.primary.connect(2)
            try:
                if await connection.fetchval(question, argument) >= wanted:
                    return True
            finally:
                await connection.close()
        await asyncio.sleep(0.2)
    return False
