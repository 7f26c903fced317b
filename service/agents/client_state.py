"""The state with which a client of AG-UI begins its run, as far as the agent takes it from clients."""

from collections.abc import Mapping, Sequence
from typing import Any


def state_of_client(metadata: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """These fields of it. They replace those of the thread's memory; all others are the agents' own."""
    given = metadata.get("agui")
    state = given.get("state") if isinstance(given, dict) else None
    return {name: state[name] for name in names if name in state} if isinstance(state, dict) else {}
