"""Warm instances: what agents keep in their worker from one message of a thread to the next. A cache and no more."""

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from typing import Any

from service.agents.contract import Agent
from service.worker.context import call_step

log = logging.getLogger(__name__)

MOST = 10_000  # kept at once; beyond that the one that was used longest ago goes


class _Instance:
    def __init__(self, idle_timeout: float, making: "asyncio.Task[Any]") -> None:
        self.making = making
        self.idle_timeout = idle_timeout
        self.used = time.monotonic()


class Instances:
    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Instance] = {}  # by agent and thread, the last used last
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self, agent: Agent, thread_id: str | None, make: Callable[[], Any]) -> Any:
        """The one that is kept for agent and thread, or a new one. Raises what `make` raises."""
        if thread_id is None or not agent.idle_timeout:
            return await call_step(make)
        key = (agent.name, thread_id)
        kept = self._kept.pop(key, None) or _Instance(agent.idle_timeout, asyncio.create_task(call_step(make)))
        self._kept[key] = kept
        kept.used = time.monotonic()
        try:
            return await asyncio.shield(kept.making)
        except BaseException:
            if kept.making.done() and self._kept.get(key) is kept:
                del self._kept[key]
            raise

    def drop(self, agent: str, thread_id: str) -> None:
        """Forget and close it, if it is here."""
        if kept := self._kept.pop((agent, thread_id), None):
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
        idle = [key for key, kept in self._kept.items() if now - kept.used > kept.idle_timeout]
        for key in idle or list(self._kept)[: len(self._kept) - MOST]:
            self.drop(*key)

    def _close(self, kept: _Instance) -> None:
        task = asyncio.create_task(_end(kept.making))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


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
