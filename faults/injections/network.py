"""Faults of the network: between a node and PostgreSQL, and between clients and an API."""

import asyncio
import contextlib
from collections.abc import Iterator

from faults.history import Fault
from faults.nodes import HEARTBEAT_INTERVAL_SECONDS, WORKER_TIMEOUT_SECONDS, Node
from faults.world import LONG_SILENCE_SECONDS, World, fault

SHORT_SILENCE_SECONDS = WORKER_TIMEOUT_SECONDS / 4
# A worker without a connection is declared dead after 1.25 intervals; this leaves it time for a heartbeat.
REFUSAL_SECONDS = 0.75 * HEARTBEAT_INTERVAL_SECONDS
SLOW_SECONDS, SLOW_FOR_LONG_SECONDS = 4.0, 15.0  # the second is longer than a statement may take
FLOOD_BYTES = 3_000_000


@fault(weight=6, cuts_off=True)
async def cut_database(world: World, record: Fault) -> None:
    """Every connection between one node and PostgreSQL is reset, several times."""
    node = _cut_off_node(world, record)
    for _n in range(world.rng.randint(1, 10)):
        for proxy in node.databases:
            proxy.cut()
        await asyncio.sleep(world.rng.uniform(0, 0.3))


@fault(weight=8, cuts_off=True)
async def lose_answers(world: World, _: Fault) -> None:
    """PostgreSQL executes the calls, but the answers are lost: a repeated call must not take effect twice."""
    try:
        for _n in range(10):
            for proxy in world.node().databases:
                proxy.lose_answers(world.rng.randint(1, 3))
            await asyncio.sleep(0.2)
    finally:
        for node in world.nodes:
            for proxy in node.databases:
                proxy.lose_answers(0)


@fault(cuts_off=True)
async def half_open_database(world: World, record: Fault) -> None:
    """A node's connections to PostgreSQL go silent for less than WORKER_TIMEOUT."""
    with _frozen(_cut_off_node(world, record)):
        await asyncio.sleep(SHORT_SILENCE_SECONDS)


@fault(weight=2, lethal=True, zombies=True)
async def partition_database(world: World, _: Fault) -> None:
    """The same for longer than WORKER_TIMEOUT: other nodes take its messages, and it must write nothing."""
    with _frozen(world.node()):
        await asyncio.sleep(LONG_SILENCE_SECONDS)


@fault(cuts_off=True)
async def refuse_database(world: World, record: Fault) -> None:
    """A node's connections to PostgreSQL are reset and refused, for less than 1.25 heartbeat intervals."""
    await _refused(_cut_off_node(world, record), REFUSAL_SECONDS)


@fault(weight=2, lethal=True, zombies=True)
async def refuse_database_for_long(world: World, _: Fault) -> None:
    """The same for longer than WORKER_TIMEOUT."""
    await _refused(world.node(), LONG_SILENCE_SECONDS)


@fault(cuts_off=True)
async def slow_database(world: World, record: Fault) -> None:
    """The way to PostgreSQL is slow (50 ms, 500 kB a second), also for large messages and for long."""
    for _n in range(3):
        world.clients.send("floods", bytes=FLOOD_BYTES)
    node = _cut_off_node(world, record)
    try:
        for proxy in node.databases:
            proxy.delay, proxy.rate = 0.05, 500_000
        await asyncio.sleep(SLOW_FOR_LONG_SECONDS if world.rng.random() < 0.4 else SLOW_SECONDS)
    finally:
        for proxy in node.databases:
            proxy.delay, proxy.rate = 0.0, None


@fault()
async def drop_notifications(world: World, _: Fault) -> None:
    """Every NOTIFY is lost, for every process."""
    proxies = [proxy for node in world.nodes for proxy in node.databases]
    try:
        for proxy in proxies:
            proxy.deaf = True
        await asyncio.sleep(5)
    finally:
        for proxy in proxies:
            proxy.deaf = False


@fault(weight=6)
async def cut_clients(world: World, _: Fault) -> None:
    """Every connection between the clients and one API is reset; answers to submits are lost."""
    api_proxy = world.node().api_proxy
    try:
        for _n in range(10):
            api_proxy.cut()
            api_proxy.lose_answers(2)
            await asyncio.sleep(0.1)
    finally:
        api_proxy.lose_answers(0)


@fault(weight=3)
async def half_open_clients(world: World, _: Fault) -> None:
    """The clients' connections to one API go silent."""
    api_proxy = world.node().api_proxy
    api_proxy.freeze()
    try:
        await asyncio.sleep(3)
    finally:
        api_proxy.thaw()


def _cut_off_node(world: World, record: Fault) -> Node:
    """A node; the fault records that it is cut off."""
    node = world.node()
    record.where = node.name
    return node


@contextlib.contextmanager
def _frozen(node: Node) -> Iterator[None]:
    for proxy in node.databases:
        proxy.freeze()
    try:
        yield
    finally:
        for proxy in node.databases:
            proxy.thaw()


async def _refused(node: Node, seconds: float) -> None:
    for proxy in node.databases:
        proxy.refuse()
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.gather(*(proxy.admit() for proxy in node.databases))
