"""Faults of the network: between a node and PostgreSQL, and between clients and an API."""

import asyncio
import contextlib
from collections.abc import Iterator

from faults.history import Fault
from faults.nodes import HEARTBEAT_INTERVAL, WORKER_TIMEOUT, Node
from faults.world import LONGER, World, fault

SILENCE = WORKER_TIMEOUT / 4  # seconds
REFUSAL = 0.75 * HEARTBEAT_INTERVAL  # below the 1.25 after which who is cut off is taken for dead, and time to beat
SLOW_SECONDS, SLOW_FOR_LONG_SECONDS = 4.0, 15.0  # the second is more than what a statement may take
OF_SOME_SIZE = 3_000_000  # bytes of events


@fault(weight=6, cuts_off=True)
async def cut_database(world: World, noted: Fault) -> None:
    """Every connection between one node and PostgreSQL is reset, several times."""
    node = _one(world, noted)
    for _n in range(world.dice.randint(1, 10)):
        for proxy in node.databases:
            proxy.cut()
        await asyncio.sleep(world.dice.uniform(0, 0.3))


@fault(weight=8, cuts_off=True)
async def lose_answers(world: World, _: Fault) -> None:
    """PostgreSQL does what it is asked, but the answers are lost: whatever is repeated must not be done twice."""
    try:
        for _n in range(10):
            for proxy in world.node().databases:
                proxy.lose_answers(world.dice.randint(1, 3))
            await asyncio.sleep(0.2)
    finally:
        for node in world.nodes:
            for proxy in node.databases:
                proxy.lose_answers(0)


@fault(cuts_off=True)
async def half_open_database(world: World, noted: Fault) -> None:
    """A node's connections to PostgreSQL go dead without a word, for less than WORKER_TIMEOUT."""
    with _frozen(_one(world, noted)):
        await asyncio.sleep(SILENCE)


@fault(weight=2, lethal=True, zombies=True)
async def partition_database(world: World, _: Fault) -> None:
    """The same for longer than WORKER_TIMEOUT: its work goes on elsewhere, and it must write nothing."""
    with _frozen(world.node()):
        await asyncio.sleep(LONGER)


@fault(cuts_off=True)
async def refuse_database(world: World, noted: Fault) -> None:
    """A node's connections to PostgreSQL are reset and refused, for less than 1.25 heartbeat intervals."""
    await _refused(_one(world, noted), REFUSAL)


@fault(weight=2, lethal=True, zombies=True)
async def refuse_database_for_long(world: World, _: Fault) -> None:
    """The same for longer than WORKER_TIMEOUT."""
    await _refused(world.node(), LONGER)


@fault(cuts_off=True)
async def slow_database(world: World, noted: Fault) -> None:
    """The way to PostgreSQL is slow, 50 ms and 500 kB a second, also for messages of some size and for long."""
    for _n in range(3):
        world.clients.send("floods", bytes=OF_SOME_SIZE)
    node = _one(world, noted)
    try:
        for proxy in node.databases:
            proxy.delay, proxy.rate = 0.05, 500_000
        await asyncio.sleep(SLOW_FOR_LONG_SECONDS if world.dice.random() < 0.4 else SLOW_SECONDS)
    finally:
        for proxy in node.databases:
            proxy.delay, proxy.rate = 0.0, None


@fault()
async def drop_notifications(world: World, _: Fault) -> None:
    """Every NOTIFY is lost, for everybody."""
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
    door = world.node().door
    try:
        for _n in range(10):
            door.cut()
            door.lose_answers(2)
            await asyncio.sleep(0.1)
    finally:
        door.lose_answers(0)


@fault(weight=3)
async def half_open_clients(world: World, _: Fault) -> None:
    """The clients' connections to one API go dead without a word."""
    door = world.node().door
    door.freeze()
    try:
        await asyncio.sleep(3)
    finally:
        door.thaw()


def _one(world: World, noted: Fault) -> Node:
    """A node, noted as the one that is cut off."""
    node = world.node()
    noted.where = node.name
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
