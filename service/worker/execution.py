"""Run the agent's call, here or in a child process, until it ends, times out or is stopped."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from service.agents.definition import Agent
from service.agents.os_threads import Threads
from service.agents.registry import KEYED_AGENTS, Registry
from service.agents.usage import Usage
from service.config import Settings
from service.leases.model import Claim, Outcome
from service.waiting import Alarms, alarm_moment, retrieve_exception, seconds_since
from service.worker.agent_filter import AgentFilter
from service.worker.breakers import Breakers
from service.worker.context.backend import AttemptQueries, EventSink
from service.worker.instances import InstanceCache, InstancePins
from service.worker.invoke import invoke
from service.worker.isolation.parent import Isolation, NoProcess
from service.worker.outcome import (
    CANCELLED,
    RELEASED,
    StopReason,
    backoff,
    deferred,
    encode,
    failed,
    overloaded,
    unknown,
)

log = logging.getLogger(__name__)

HELD_SECONDS = 1.0  # from which on a timer that comes too late is set once more
CANCEL_GRACE_SECONDS = 0.5  # which an agent gets to clean up before its message goes on without it


class WorkerQueries(AttemptQueries, Protocol):
    async def another_claims(self, queue: str, agent: str, tenant: str) -> bool:
        """Whether another living worker claims messages of this tenant from this queue and has this agent."""

    async def another_replaces(self, agent: str) -> bool:
        """Whether another living worker has this agent and claims whatever this one claims."""


class AttemptServices(msgspec.Struct, frozen=True):
    """What the attempts of a worker share to run their agents."""

    settings: Settings
    registry: Registry
    queries: WorkerQueries
    instances: InstanceCache
    os_threads: Threads
    isolation: Isolation | None  # None: every agent runs in the worker
    breakers: Breakers
    unknown_agents: set[str]  # which this worker does not have: each is logged once
    agent_filter: AgentFilter
    alarms: Alarms  # of the ends of their times


class Execution:
    """Implements service.worker.context.backend.ContextBackend."""

    def __init__(self, claim: Claim, services: AttemptServices, events: EventSink) -> None:
        self.events = events
        self.queries = services.queries
        self._claim = claim
        self._services = services
        self._agent = services.registry.get(claim.agent)
        self._reason: StopReason | Exception | None = None  # why it must end early
        self._parked: Outcome | None = None
        self._over = asyncio.get_running_loop().create_future()  # resolved when the agent has ended or has to end
        self._usage: Usage | None = None  # most agents count nothing
        self._alarm: int | None = None  # the moment at which its time ends
        self._was_held = False  # its time was extended
        self._closed = False
        self._pins: InstancePins | None = None  # most agents use no instance

    async def run(self) -> Outcome | None:
        """The outcome; None if the lease is lost."""
        agent = self._agent
        if agent is None:
            self._log_unknown()
            put_off = unknown(self._claim.agent, self._claim.attempt, self._services.settings)
            is_left = await self._services.agent_filter.leaves(self._claim.agent, self._claim.agent)
            return msgspec.structs.replace(put_off, delay_seconds=0.0) if is_left else put_off
        if self._reason is not None:
            return self._interrupted(self._reason)
        if (outcome := await self._put_off(agent)) is not None:
            return outcome
        task = asyncio.create_task(self._invoke(agent))
        task.add_done_callback(self._end)
        try:
            await self._over
        finally:
            if self._alarm is not None:
                self._services.alarms.unset(self._alarm, self)
        if task.done() and not task.cancelled() and self._parked is None:  # it returned or raised
            return task.result()
        if task.done() and self._reason is None:  # it cancelled itself
            return self.failed(asyncio.CancelledError())
        if self._reason is None:  # it still runs, so the timer has ended the wait
            self._reason = TimeoutError(f"the attempt took longer than {self._claim.timeout_seconds:g} seconds")
        # It timed out, was stopped, or is parked.
        await self._cancel(task, agent)
        return self._interrupted(self._reason)

    def stop(self, reason: StopReason | Exception) -> None:
        """End it early; the first reason counts."""
        if self._reason is None:
            self._reason = reason
            self._end()

    def close(self) -> None:
        """The agent's part is over."""
        self._closed = True
        if self._pins is not None:
            self._pins.release()

    def failed(self, error: BaseException) -> Outcome:
        return failed(error, self._claim, self._services.settings)

    @property
    def usage(self) -> str | None:
        """What the agent counted, a JSON object."""
        total = None if self._usage is None else self._usage.total
        return encode(total) if total else None

    @property
    def stopped(self) -> bool:
        return self._reason is not None or self._closed

    def park(self, outcome: Outcome) -> None:
        if self._reason is None:
            self._parked = outcome
            self.stop("parked")

    def count(self, usage: str, step: str) -> None:
        self._usage = self._usage or Usage()
        self._usage.count(usage, step)

    async def instance(self, make: Callable[[], Any]) -> Any:
        assert self._agent is not None
        self._pins = self._pins or InstancePins(self._services.instances)
        return await self._services.instances.get(self._agent, self._claim, make, self._pins)

    async def _invoke(self, agent: Agent) -> Outcome:
        if isolation := self._isolation(agent):
            outcome = await self._invoke_in_process(agent, isolation)
        else:
            self._start_timer()
            outcome = await invoke(agent, self._claim, self, self._services.settings, self._services.os_threads)
        self._services.breakers.record(agent.name, outcome.kind)
        return outcome

    def _isolation(self, agent: Agent) -> Isolation | None:
        # After its first loss a message runs in a process of its own: if it kills that too, only it is charged again.
        return self._services.isolation if self._claim.losses or agent.limits.run_in == "process" else None

    async def _invoke_in_process(self, agent: Agent, isolation: Isolation) -> Outcome:
        try:
            async with isolation.child() as child:
                self._start_timer()
                outcome = await child.run(self._claim, self)
        except NoProcess as error:
            log.exception("an agent got no process", extra={"message_id": str(self._claim.message_id)})
            return deferred(str(error), backoff(self._claim.attempt - 1, self._services.settings))
        if outcome.kind == "lost":
            extra = {"message_id": str(self._claim.message_id), "agent": agent.name, "error": outcome.error}
            log.warning("an agent's process died", extra=extra)
        return outcome

    async def _put_off(self, agent: Agent) -> Outcome | None:
        """The outcome of an agent that must not run now."""
        services = self._services
        for keyed in KEYED_AGENTS if agent.name in services.registry.scripted else ():
            is_left = await services.agent_filter.leaves(agent.name, keyed)
            if is_left or await services.queries.another_claims(self._claim.queue, keyed, self._claim.tenant):
                reason = f"Another worker has the key with which the agent {agent.name!r} asks its model."
                return deferred(reason, 0.0 if is_left else backoff(self._claim.attempt - 1, services.settings))
        if seconds := services.breakers.pause_left(agent.name):
            reason = f"A service that the agent {agent.name!r} needs is overloaded, as its last messages found."
            return overloaded(reason, self._claim, services.settings, asked_seconds=seconds)
        return None

    def _start_timer(self, seconds: float | None = None) -> None:
        """The agent's time begins: the start of a process does not count."""
        seconds = self._claim.timeout_seconds if seconds is None else seconds
        self._alarm = alarm_moment(time.monotonic() + seconds)
        self._services.alarms.set(self._alarm, self)

    def ring(self, moment: int) -> None:
        """Its time is over. Implements service.waiting.Sleeper."""
        # Other agents may have held the loop, and with it the answers that this one waits for.
        held_seconds = seconds_since(moment)
        if held_seconds > HELD_SECONDS and not self._was_held:
            self._was_held = True
            self._start_timer(held_seconds)
        else:
            self._end()

    def _end(self, _: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _cancel(self, task: asyncio.Task[Outcome], agent: Agent) -> None:
        task.cancel(self._reason if isinstance(self._reason, str) else None)
        await asyncio.wait({task}, timeout=CANCEL_GRACE_SECONDS)
        if not task.done():
            extra = {"message_id": str(self._claim.message_id), "agent": agent.name}
            log.warning("an agent ignores its cancellation", extra=extra)
            task.add_done_callback(retrieve_exception)
            if self._isolation(agent):
                task.cancel()  # the second one kills its process
                await asyncio.wait({task})

    def _interrupted(self, reason: StopReason | Exception) -> Outcome | None:
        if isinstance(reason, Exception):
            return self.failed(reason)
        return {"cancelled": CANCELLED, "released": RELEASED, "parked": self._parked}.get(reason)

    def _log_unknown(self) -> None:
        if self._claim.agent not in self._services.unknown_agents:
            self._services.unknown_agents.add(self._claim.agent)
            log.warning(
                "this worker has no agent of this name: its messages are put off",
                extra={"agent": self._claim.agent, "queue": self._claim.queue},
            )
