"""One attempt at one message, as a pipeline: run the agent, here or in a process of its own, close the log, finish."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from service.agents.definition import Agent
from service.agents.registry import Registry
from service.batching import Batcher
from service.config import Settings
from service.leases.store import Append, Appended, Finish, Finished
from service.queues.model import Claim
from service.worker.context import Backing, Lookups
from service.worker.event_buffer import Outbox
from service.worker.instances import Instances
from service.worker.invoke import call
from service.worker.isolation.pool import Isolation, NoProcess
from service.worker.outcome import CANCELLED, RELEASED, Outcome, broken, deferred, encode, failed, unknown
from service.worker.sync_agents import SyncRunner

log = logging.getLogger(__name__)

CANCEL_GRACE = 0.5  # seconds an agent gets to clean up before its message goes on without it


class Tools(msgspec.Struct, frozen=True):
    """What every attempt of a worker shares."""

    settings: Settings
    registry: Registry
    lookups: Lookups
    instances: Instances
    appends: Batcher[Append, Appended]
    finishes: Batcher[Finish, Finished]
    sync: SyncRunner
    isolation: Isolation | None
    unknown: set[str]  # agents that messages asked for and this worker does not have: each is told of once


class Attempt:
    """`ended` is called when the agent's part is over: what follows waits for PostgreSQL only."""

    def __init__(self, claim: Claim, tools: Tools, ended: Callable[[], None]) -> None:
        self.claim = claim
        self._ended = ended
        self._tools = tools
        # Why the attempt is to end early: 'cancelled', 'lost', 'released', 'parked', or what went wrong.
        self._reason: str | Exception | None = None
        self._parked: Outcome | None = None
        self._refused: Exception | None = None  # what PostgreSQL said of an event that is not in the log
        self._over = asyncio.get_running_loop().create_future()  # done when the agent is, or when there is a reason
        self._outbox = Outbox(claim.message_id, claim.lease, claim.last_seq + 1, tools.appends, self.stop)
        self._usage: dict[str, Any] = {}
        # After its first loss a message runs in a process of its own, so that only the guilty one is charged again.
        agent = tools.registry.get(claim.agent)
        self._isolation = tools.isolation if claim.losses or (agent and agent.limits.run_in == "process") else None
        self._timer: asyncio.TimerHandle | None = None
        self._uses = tools.instances.uses()

    def stop(self, reason: str | Exception) -> None:
        """End it early; the first reason counts."""
        if isinstance(reason, Exception) and self._refused is None:
            self._refused = reason
        if self._reason is None:
            self._reason = reason
            self._end()

    async def run(self) -> str:
        """Returns the message's new state, or 'lost' where the lease was not ours any more."""
        try:
            outcome = await self._execute()
        except Exception as error:
            log.exception("an attempt broke", extra={"message_id": str(self.claim.message_id)})
            outcome = broken(error, self.claim.failures, self._tools.settings)
        finally:
            self._uses.end()
            self._ended()
        first_seq, unsent = await self._outbox.close()
        if outcome is None:
            return "lost"
        if outcome.kind == "completed" and self._refused is not None:
            outcome = self._failed(self._refused)  # events did not get into the log: an answer without them is none
        finish = Finish(
            self.claim.message_id,
            self.claim.lease,
            outcome.kind,
            outcome.result,
            outcome.error,
            outcome.traceback,
            outcome.delay,
            encode(self._usage) if self._usage else None,
            first_seq,
            unsent,
            outcome.sends,
            outcome.memory,
            outcome.children,
        )
        try:
            finished = await self._tools.finishes.submit(finish)
        except Exception as error:  # PostgreSQL does not take the result or an event: the attempt failed
            refused = self._failed(error)
            finished = await self._tools.finishes.submit(
                msgspec.structs.replace(
                    finish,
                    outcome=refused.kind,
                    result=None,
                    error=refused.error,
                    traceback=None,
                    delay=refused.delay,
                    usage=None,
                    events=[],
                    sends=None,
                    memory=None,
                    children=None,
                )
            )
        return finished.status

    def _end(self, _: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _execute(self) -> Outcome | None:
        """Run the agent to its end, its timeout, or the first reason to stop it; None where the lease is lost."""
        agent = self._tools.registry.get(self.claim.agent)
        if agent is None:
            self._tell_unknown()
            return unknown(self.claim.agent, self.claim.attempt, self._tools.settings)
        if self._reason is not None:
            return self._interrupted(self._reason)
        task = asyncio.create_task(self._call(agent))
        task.add_done_callback(self._end)
        try:
            await self._over
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if task.done() and not task.cancelled() and self._parked is None:
            return task.result()
        if task.done() and self._reason is None:
            return self._failed(asyncio.CancelledError())
        if self._reason is None:
            self._reason = TimeoutError(f"the attempt took longer than {self.claim.timeout_seconds:g} seconds")
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_GRACE)
        if not task.done():
            log.warning(
                "an agent ignores its cancellation",
                extra={"message_id": str(self.claim.message_id), "agent": agent.name},
            )
            task.add_done_callback(lambda ignored: ignored.cancelled() or ignored.exception())
            if self._isolation is not None:
                task.cancel()  # once more: its process is killed
                await asyncio.wait({task})
        return self._interrupted(self._reason)

    def _tell_unknown(self) -> None:
        if self.claim.agent not in self._tools.unknown:
            self._tools.unknown.add(self.claim.agent)
            log.warning(
                "this worker has no agent of this name: its messages are put off",
                extra={"agent": self.claim.agent, "queue": self.claim.queue},
            )

    def _interrupted(self, reason: str | Exception) -> Outcome | None:
        if isinstance(reason, Exception):
            return self._failed(reason)
        return {"cancelled": CANCELLED, "released": RELEASED, "parked": self._parked}.get(reason)

    async def _call(self, agent: Agent) -> Outcome:
        outbox, tools = self._outbox, self._tools
        backing = Backing(
            outbox.put,
            outbox.save,
            tools.lookups,
            self._park,
            self._count,
            lambda: self._reason is not None,
            lambda make: tools.instances.get(agent, self.claim.thread_id, make, self._uses),
        )
        if self._isolation is None:
            self._begin()
            return await call(agent, self.claim, backing, self._tools.settings, self._tools.sync)
        try:
            async with self._isolation.child() as child:
                self._begin()
                outcome = await child.run(self.claim, backing)
        except NoProcess as error:
            log.exception("an agent got no process", extra={"message_id": str(self.claim.message_id)})
            return deferred(str(error), self.claim.attempt, self._tools.settings)
        if outcome.kind == "lost":
            log.warning(
                "an agent's process died",
                extra={"message_id": str(self.claim.message_id), "agent": agent.name, "error": outcome.error},
            )
        return outcome

    def _begin(self) -> None:
        """The agent's time begins, now that there is a process for it."""
        self._timer = asyncio.get_running_loop().call_later(self.claim.timeout_seconds, self._end)

    def _park(self, outcome: Outcome) -> None:
        if self._reason is None:
            self._parked = outcome
            self.stop("parked")

    def _count(self, counts: str) -> None:
        self._usage |= msgspec.json.decode(counts)

    def _failed(self, error: BaseException) -> Outcome:
        return failed(error, self.claim.failures, self._tools.settings)
