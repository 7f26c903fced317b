"""The world that faults break (servers, nodes, clients), and how a fault is injected.

A fault is a coroutine in a module of `injections`: it breaks something, waits, and repairs what it broke. It repairs
nothing else, because other faults may run at the same time.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import msgspec

from faults.history import Fault, History
from faults.load import Clients
from faults.nodes import WORKER_TIMEOUT_SECONDS, Node, NodeFailed
from faults.postgres import Cluster
from service.errors import ConfigError

LONG_SILENCE_SECONDS = WORKER_TIMEOUT_SECONDS + 2  # after such a silence a worker is declared dead
FAULT_SECONDS = 120.0  # a fault that takes longer is given up
VICTIM_SECONDS = 15.0  # a fault waits so long for something to break


class NothingToBreak(Exception):
    """The fault found nothing to break, or had no effect."""


class World(msgspec.Struct):
    cluster: Cluster
    nodes: list[Node]
    clients: Clients
    history: History
    rng: random.Random
    # A fault that takes PostgreSQL or a whole node away waits until the previous one has given it back.
    locks: dict[str, asyncio.Lock] = msgspec.field(
        default_factory=lambda: {"postgres": asyncio.Lock(), "nodes": asyncio.Lock()}
    )

    def node(self) -> Node:
        if alive := [node for node in self.nodes if node.alive]:
            return self.rng.choice(alive)
        raise NothingToBreak("no node is up")

    async def child(self, command: Literal["work", "serve"]) -> tuple[Node, int]:
        """A worker or an API, and its node; waits until one runs."""
        until = time.monotonic() + VICTIM_SECONDS
        while time.monotonic() < until:
            if found := [(node, pid) for node in self.nodes for pid in node.children(command)]:
                return self.rng.choice(found)
            await asyncio.sleep(0.2)
        raise NothingToBreak(f"no process runs `treadle {command}`")


Break: TypeAlias = Callable[[World, Fault], Awaitable[None]]


class FaultType(msgspec.Struct, frozen=True):
    """A type of fault. `weight`: how often it is chosen. `takes`: what only one fault may take away at a time.

    `alone`: no other fault runs at the same time. `lethal`, `zombies` and `cuts_off` are explained in Fault.
    """

    name: str
    run: Break
    about: str
    weight: int
    takes: Literal["postgres", "nodes"] | None
    alone: bool
    lethal: bool
    zombies: bool
    cuts_off: bool


FAULTS: dict[str, FaultType] = {}


def fault(
    *,
    weight: int = 4,
    takes: Literal["postgres", "nodes"] | None = None,
    alone: bool = False,
    lethal: bool = False,
    zombies: bool = False,
    cuts_off: bool = False,
) -> Callable[[Break], Break]:
    def register(run: Break) -> Break:
        name, about = run.__name__, (run.__doc__ or "").strip()
        FAULTS[name] = FaultType(name, run, about, weight, takes, alone, lethal, zombies, cuts_off)
        return run

    return register


async def inject(world: World, name: str) -> None:
    """Run one fault and record its time."""
    fault_type = FAULTS[name]
    async with world.locks[fault_type.takes] if fault_type.takes else contextlib.nullcontext():
        record = Fault(
            name, time.time(), lethal=fault_type.lethal, zombies=fault_type.zombies, cuts_off=fault_type.cuts_off
        )
        world.history.faults.append(record)
        try:
            async with asyncio.timeout(FAULT_SECONDS):
                await fault_type.run(world, record)
        except (NodeFailed, ConfigError) as error:
            world.history.not_recovered.append(f"{name}: {error}")
        except Exception as error:  # two faults at the same time may disturb each other
            record.detail = f"{type(error).__name__}: {error}"
        finally:
            record.ended = time.time()
