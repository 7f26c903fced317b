"""All that there is to break, and how a fault is inflicted on it.

A fault is a coroutine in one of `kinds`: it breaks something, waits as long as that is meant to last, and mends what it
broke and nothing else, for others may be at work beside it.
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
from faults.nodes import WORKER_TIMEOUT, Node, NodeFailed
from faults.postgres import Cluster
from service.errors import ConfigError

LONGER = WORKER_TIMEOUT + 2  # seconds: a silence for which the living must not be taken for dead
FAULT_SECONDS = 120.0  # after which a fault is given up
VICTIM_SECONDS = 15.0  # until there must be something to break


class NothingToBreak(Exception):
    """A fault found no victim, or did not do what its name says."""


class World(msgspec.Struct):
    cluster: Cluster
    nodes: list[Node]
    clients: Clients
    history: History
    dice: random.Random
    # Whoever takes a server or a whole node away, or its connections, waits until the last one has given it back.
    locks: dict[str, asyncio.Lock] = msgspec.field(
        default_factory=lambda: {"postgres": asyncio.Lock(), "nodes": asyncio.Lock()}
    )

    def node(self) -> Node:
        if alive := [node for node in self.nodes if node.alive]:
            return self.dice.choice(alive)
        raise NothingToBreak("no node is up")

    async def child(self, command: Literal["work", "serve"]) -> tuple[Node, int]:
        """A worker or an API, and its node; waits for one."""
        until = time.monotonic() + VICTIM_SECONDS
        while time.monotonic() < until:
            if found := [(node, pid) for node in self.nodes for pid in node.children(command)]:
                return self.dice.choice(found)
            await asyncio.sleep(0.2)
        raise NothingToBreak(f"no process is at `treadle {command}`")


Break: TypeAlias = Callable[[World, Fault], Awaitable[None]]


class Kind(msgspec.Struct, frozen=True):
    """`weight`: how often it is chosen among the others; `takes`: what only one can take away at a time; `lethal`,
    `zombies` and `cuts_off` are explained with Fault."""

    name: str
    run: Break
    about: str
    weight: int
    takes: Literal["postgres", "nodes"] | None
    lethal: bool
    zombies: bool
    cuts_off: bool


FAULTS: dict[str, Kind] = {}


def fault(
    *,
    weight: int = 4,
    takes: Literal["postgres", "nodes"] | None = None,
    lethal: bool = False,
    zombies: bool = False,
    cuts_off: bool = False,
) -> Callable[[Break], Break]:
    def register(run: Break) -> Break:
        name, about = run.__name__, (run.__doc__ or "").strip()
        FAULTS[name] = Kind(name, run, about, weight, takes, lethal, zombies, cuts_off)
        return run

    return register


async def inflict(world: World, name: str) -> None:
    """Run one fault, and write down when."""
    kind = FAULTS[name]
    async with world.locks[kind.takes] if kind.takes else contextlib.nullcontext():
        noted = Fault(name, time.time(), lethal=kind.lethal, zombies=kind.zombies, cuts_off=kind.cuts_off)
        world.history.faults.append(noted)
        try:
            async with asyncio.timeout(FAULT_SECONDS):
                await kind.run(world, noted)
        except (NodeFailed, ConfigError) as error:
            world.history.unwell.append(f"{name}: {error}")
        except Exception as error:  # two at once may be in each other's way
            noted.detail = f"{type(error).__name__}: {error}"
        finally:
            noted.ended = time.time()
