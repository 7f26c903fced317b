"""Warm instances: what agents keep in their worker from one message of a thread to the next. A cache and no more."""

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

from service.agents.definition import Agent
from service.worker.context import call_step

log = logging.getLogger(__name__)

MOST = 10_000  # kept at once; beyond that the one that was used longest ago goes


class _Instance:
    def __init__(self, idle_timeout: float, making: "asyncio.Task[Any]") -> None:
        self.making = making
        self.idle_timeout = idle_timeout
        self.used = time.monotonic()
        self.users = 0
        self.dropped = False

    def idle_at(self, now: float) -> bool:
        return not self.users and now - self.used > self.idle_timeout

    @property
    def failed(self) -> bool:
        return self.making.done() and (self.making.cancelled() or self.making.exception() is not None)


class Instances:
    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Instance] = {}  # by agent and thread, the last used last
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, agent: Agent, thread_id: str | None, make: Callable[[], Any], uses: "Uses") -> Any:
        """The one that is kept for agent and thread, or a new one; `uses` holds it. Raises what `make` raises."""
        key = (agent.name, thread_id) if thread_id is not None and agent.limits.idle_timeout else None
        kept = self._kept.pop(key, None) if key else None
        if kept is None or kept.failed:
            kept = _Instance(agent.limits.idle_timeout, asyncio.create_task(call_step(make)))
        if key:
            self._kept[key] = kept
        else:
            kept.dropped = True  # for this attempt only
        uses.hold(kept)
        return await asyncio.shield(kept.making)

    def uses(self) -> "Uses":
        """Of one attempt."""
        return Uses(self._close)

    def drop(self, agent: str, thread_id: str) -> None:
        """Forget it, if it is here, and close it as soon as nobody uses it."""
        if kept := self._kept.pop((agent, thread_id), None):
            kept.dropped = True
            if not kept.users:
                self._close(kept)

    async def close(self) -> None:
        """Forget and close all."""
        for key in list(self._kept):
            self.drop(*key)
        if self._closing:
            await asyncio.wait(self._closing, timeout=5)

    def drop_idle(self) -> None:
        """Forget and close what was not used for its time, or is too much."""
        now = time.monotonic()
        idle = [key for key, kept in self._kept.items() if kept.failed or kept.idle_at(now)]
        for key in idle or list(self._kept)[: max(0, len(self._kept) - MOST)]:
            self.drop(*key)

    def _close(self, kept: _Instance) -> None:
        task = asyncio.create_task(_end(kept.making))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class Uses:
    """The instances that an attempt uses: none of them is closed before it is over."""

    def __init__(self, close: Callable[[_Instance], None]) -> None:
        self._held: set[_Instance] = set()
        self._close = close

    def hold(self, kept: _Instance) -> None:
        if kept not in self._held:
            self._held.add(kept)
            kept.users += 1

    def end(self) -> None:
        for kept in self._held:
            kept.users -= 1
            kept.used = time.monotonic()
            if kept.dropped and not kept.users:
                self._close(kept)
        self._held.clear()


async def _end(making: "asyncio.Task[Any]") -> None:
    try:
        instance = await making
    except BaseException:
        return  # whoever asked for it was told
    end = getattr(instance, "aclose", None) or getattr(instance, "close", None)
    if end is not None:
        try:
            ended = end()
            if inspect.isawaitable(ended):
                await ended
        except Exception:
            log.exception("an instance could not be closed")
