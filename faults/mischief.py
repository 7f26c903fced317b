"""Every fault there is: importing a module of `kinds` registers what it breaks."""

from faults.kinds import agents, clients, network, postgres, processes
from faults.world import FAULTS, World, inflict

__all__ = ["FAULTS", "World", "agents", "clients", "inflict", "network", "postgres", "processes"]
