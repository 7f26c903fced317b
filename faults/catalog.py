"""The catalog of faults: importing a module of `injections` registers its faults in FAULTS."""

from faults.injections import (
    agents,
    clients,
    clocks,
    listeners,
    locks,
    network,
    postgres,
    processes,
    publishers,
    remote,
    zones,
)
from faults.world import FAULTS, World, inject

__all__ = [
    "FAULTS",
    "World",
    "agents",
    "clients",
    "clocks",
    "inject",
    "listeners",
    "locks",
    "network",
    "postgres",
    "processes",
    "publishers",
    "remote",
    "zones",
]
