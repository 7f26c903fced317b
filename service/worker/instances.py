"""Warm instances: what agents keep in their worker from one message of a thread to the next. Only a cache."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from service.agents.definition import Agent
from service.agents.thread_bridge import call_anywhere
from service.leases.model import Claim

log = logging.getLogger(__name__)

MAX_CACHED_INSTANCES = 10_000
CLOSE_SECONDS = 5.0  # for all instances together when the worker stops
CLOSE_ONE_SECONDS = 60.0


class WarmInstance(NamedTuple):
    """One of the cached instances, for a report: the key of its thread, and when it was made (time.monotonic())."""

    thread: int
    agent: str
    made_at: float


class _Instance:
    """`thread`: the key of the thread that it was made for. A thread that is deleted and begun again has another."""

    def __init__(self, thread: int | None, agent: str, idle_timeout: float, making: "asyncio.Task[Any]") -> None:
        self.thread = thread
        self.agent = agent
        self.made_at = time.monotonic()
        self.making = making
        self.idle_timeout = idle_timeout
        self.used_at = time.monotonic()
        self.pins = 0  # attempts that use it
        self.dropped = False

    def idle_at(self, now: float) -> bool:
        return not self.pins and now - self.used_at > self.idle_timeout

    @property
    def failed(self) -> bool:
        return self.making.done() and (self.making.cancelled() or self.making.exception() is not None)


class InstanceCache:
    """`secret`: treadle.instance_secret(), set before the first message."""

    def __init__(self) -> None:
        self.secret = b""
        self._cached: dict[str, _Instance] = {}  # by their names, the least recently used first
        self._closing: set[asyncio.Task[None]] = set()

    def name(self, tenant: str, agent: str, thread_id: str) -> str:
        """The name that treadle.drop_instance sends to workers: a digest with the secret, because every SQL user can
        listen, and can send hints."""
        return hashlib.sha256(self.secret + "\n".join((tenant, agent, thread_id)).encode()).hexdigest()

    async def get(self, agent: Agent, claim: Claim, make: Callable[[], Any], pins: "InstancePins") -> Any:
        """The cached instance for agent and thread, or a new one; `pins` keeps it open. Raises what `make` raises."""
        key = None
        if claim.thread_id is not None and agent.limits.idle_timeout:
            key = self.name(claim.tenant, agent.name, claim.thread_id)
        if key and (kept := self._cached.get(key)) and kept.thread != claim.thread:
            self.drop(key)
        instance = self._cached.pop(key, None) if key else None
        if instance is None or instance.failed:
            making = asyncio.create_task(call_anywhere(make))
            instance = _Instance(claim.thread, agent.name, agent.limits.idle_timeout, making)
        if key:
            self._cached[key] = instance
        else:
            instance.dropped = True  # for this attempt only
        pins.add(instance)
        return await asyncio.shield(instance.making)

    def drop(self, name: str) -> None:
        """Remove the instance of this name, if it is cached, and close it as soon as no attempt uses it."""
        if instance := self._cached.pop(name, None):
            self._drop(instance)

    def give_up(self, instance: _Instance) -> None:
        """Remove an instance that an attempt did not wait for until it was made: the next attempt makes a new one."""
        for key in [key for key, cached in self._cached.items() if cached is instance]:
            del self._cached[key]
        self._drop(instance)

    def _drop(self, instance: _Instance) -> None:
        instance.dropped = True
        if not instance.pins:
            self.close_instance(instance)

    def drop_idle(self) -> None:
        """Drop instances that were not used for their idle timeout; if there are none, those above the maximum."""
        now = time.monotonic()
        idle = [key for key, instance in self._cached.items() if instance.failed or instance.idle_at(now)]
        for key in idle or list(self._cached)[: max(0, len(self._cached) - MAX_CACHED_INSTANCES)]:
            self.drop(key)

    def warm(self, limit: int) -> list[WarmInstance]:
        """Those that are made, the most recently used ones, up to `limit`, in the order of their making."""
        made = [one for one in self._cached.values() if one.making.done() and not one.failed]
        found = [WarmInstance(one.thread, one.agent, one.made_at) for one in made if one.thread is not None]
        return sorted(found[-limit:], key=lambda one: one.made_at)

    async def close(self) -> None:
        """Drop and close all instances."""
        for key in list(self._cached):
            self.drop(key)
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS)

    def close_instance(self, instance: _Instance) -> None:
        """Close a dropped instance in the background; one that is still being made is not waited for."""
        instance.making.cancel()
        task = asyncio.create_task(_close(instance.making))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class InstancePins:
    """The instances that one attempt uses: they are closed no earlier than its end."""

    def __init__(self, cache: InstanceCache) -> None:
        self._cache = cache
        self._instances: set[_Instance] = set()

    def add(self, instance: _Instance) -> None:
        if instance not in self._instances:
            self._instances.add(instance)
            instance.pins += 1

    def release(self) -> None:
        """The attempt is over."""
        for instance in self._instances:
            instance.pins -= 1
            instance.used_at = time.monotonic()
            if not instance.making.done():
                self._cache.give_up(instance)
            elif instance.dropped and not instance.pins:
                self._cache.close_instance(instance)
        self._instances.clear()


async def _close(making: "asyncio.Task[Any]") -> None:
    try:
        instance = await making
    except BaseException:
        return  # the attempt that made it has already received the exception
    close = getattr(instance, "aclose", None) or getattr(instance, "close", None)
    if close is not None:
        try:
            async with asyncio.timeout(CLOSE_ONE_SECONDS):
                await call_anywhere(close)
        except Exception:
            log.exception("an instance could not be closed")
