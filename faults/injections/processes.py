"""Faults of processes: workers, APIs and supervisors are killed, stopped and restarted."""

import asyncio
import signal
import time
from uuid import UUID

from faults import watch
from faults.history import Fault, Recovery
from faults.nodes import signal_to
from faults.world import LONG_SILENCE_SECONDS, VICTIM_SECONDS, NothingToBreak, World, fault


@fault(weight=8, lethal=True)
async def kill_worker(world: World, record: Fault) -> None:
    """kill -9 of a worker that runs messages."""
    pid, held = await _busy_worker(world)
    since = time.time()
    if not signal_to(pid, signal.SIGKILL):
        raise NothingToBreak("the worker had ended")
    record.noticed = await watch.noticed(world, held, since)
    await watch.picked_up(world, held, since)


@fault(lethal=True, zombies=True)
async def stop_worker(world: World, _: Fault) -> None:
    """SIGSTOP of a worker that runs messages, for longer than WORKER_TIMEOUT, then SIGCONT: a zombie."""
    pid, _held = await _busy_worker(world)
    if not signal_to(pid, signal.SIGSTOP):
        raise NothingToBreak("the worker had ended")
    try:
        await asyncio.sleep(LONG_SILENCE_SECONDS)
    finally:
        signal_to(pid, signal.SIGCONT)


@fault()
async def kill_api(world: World, _: Fault) -> None:
    """kill -9 of an API; its readers continue at another."""
    for _n in range(8):  # so that clients read at every API
        world.clients.send("scribe", follow=True, chunks=30, pause=0.1)
    await asyncio.sleep(1.0)
    node, pid = await world.child("serve")
    readings = [
        reading
        for reading in world.history.readings
        if reading.port == node.api_proxy.port and reading.message_id and len(reading.events) > 2  # its message runs
    ]
    since = time.time()
    if not signal_to(pid, signal.SIGKILL):
        raise NothingToBreak("the API had ended")
    await watch.streams_again(world, readings, node.api_proxy.port, since)


@fault(weight=2, takes="nodes", lethal=True)
async def kill_supervisor(world: World, _: Fault) -> None:
    """kill -9 of a whole node's supervisor; then the node is started again."""
    node = world.node()
    since = time.time()
    await node.kill()
    await node.start()
    world.history.recoveries.append(Recovery("supervisor killed to its successor's API", time.time() - since))


@fault(weight=3, takes="nodes")
async def rolling_restart(world: World, _: Fault) -> None:
    """SIGTERM to one node after the other, as in a deployment, while clients stream."""
    for node in world.nodes:
        await node.stop()
        await node.start()


async def _busy_worker(world: World) -> tuple[int, list[UUID]]:
    """A worker, and the messages that it runs."""
    for _ in range(8):
        world.clients.send("scribe", chunks=20)
    until = time.monotonic() + VICTIM_SECONDS
    while time.monotonic() < until:
        _node, pid = await world.child("work")
        if held := await watch.held_by(world, pid):
            return pid, held
        await asyncio.sleep(0.05)
    raise NothingToBreak("no worker runs a message")
