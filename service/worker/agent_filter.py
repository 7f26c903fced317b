"""For which agents a worker claims: for all, until it meets messages that another worker can handle and it cannot."""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence

LOOK_SECONDS = 5.0  # between two looks whether the other worker is still there


class AgentFilter:
    """`names`: the agents that this worker has. `is_replaced`: whether another worker has an agent, and claims whatever
    this one claims."""

    def __init__(
        self,
        names: Collection[str],
        is_replaced: Callable[[str], Awaitable[bool]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = names
        self._is_replaced = is_replaced
        self._clock = clock
        self._left: dict[str, tuple[str, float]] = {}  # by agent: what it needs, and when that is looked for again

    async def leaves(self, agent: str, needed: str) -> bool:
        """Whether messages for `agent` are left to another worker, which has the agent `needed`."""
        _, until = self._left.get(agent, ("", 0.0))
        return self._clock() < until or await self._look(agent, needed)

    async def agents(self) -> Sequence[str] | None:
        """For which to claim; None: for all."""
        if not self._left:
            return None
        now = self._clock()
        for agent, (needed, until) in list(self._left.items()):
            if now >= until:
                await self._look(agent, needed)
        return [name for name in self._names if name not in self._left] if self._left else None

    async def _look(self, agent: str, needed: str) -> bool:
        self._left.pop(agent, None)
        is_replaced = await self._is_replaced(needed)
        if is_replaced:
            self._left[agent] = needed, self._clock() + LOOK_SECONDS
        return is_replaced
