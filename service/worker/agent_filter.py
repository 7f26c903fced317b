"""For which agents a worker claims: for all, until it meets messages that another worker can handle and it cannot."""

import time
from collections.abc import Callable, Collection, Sequence

LEAVE_SECONDS = 60.0  # then it claims for all again: the other worker may have gone


class AgentFilter:
    """`names`: the agents that this worker has."""

    def __init__(self, names: Collection[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._clock = clock
        self._left: dict[str, float] = {}  # until when, by agent

    def leave(self, agent: str) -> None:
        """Another worker has what this agent needs: leave its messages to that one for a while."""
        self._left[agent] = self._clock() + LEAVE_SECONDS

    def leaves(self, agent: str) -> bool:
        """Whether its messages are left to others now."""
        return self._clock() < self._left.get(agent, 0.0)

    @property
    def agents(self) -> Sequence[str] | None:
        """For which to claim; None: for all."""
        if not self._left:
            return None
        now = self._clock()
        self._left = {agent: until for agent, until in self._left.items() if now < until}
        return [name for name in self._names if name not in self._left] if self._left else None
