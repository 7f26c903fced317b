"""The attempts of a worker that have not ended: start them, stop them, make room and tell others when they end."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import UUID

from service import telemetry
from service.db.notifier import EVERYTHING
from service.leases.model import Claim, FinishStatus, Verdict
from service.worker.attempt import Attempt
from service.worker.execution import AttemptServices
from service.worker.traces import Traces
from service.worker.writer import Writer

log = logging.getLogger(__name__)

MAX_HELD_CHARACTERS = 200_000_000  # of messages and memories; a claim that begins below it may exceed it


class Attempts:
    """Implements service.worker.attempt.AttemptOwner.

    `work` is set when the end of an attempt may allow another claim.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        writer: Writer,
        services: AttemptServices,
        work: asyncio.Event,
        traces: Traces,
    ) -> None:
        self._concurrency = concurrency
        self._writer = writer
        self._services = services
        self._work = work
        self._traces = traces
        self._attempts: dict[UUID, Attempt] = {}  # by message
        self._tasks: set[asyncio.Task[None]] = set()
        self._running_agents = 0  # the other attempts wait for their finish
        self.held_characters = 0  # of messages and memories
        self._releasing = False
        self.leases: dict[UUID, UUID] = {}  # by message; the heartbeat's thread copies it
        self.wake_for_room = False  # set `work` as soon as an attempt ends, because the last claim had too little room

    def __len__(self) -> int:
        return len(self._attempts)

    def room(self) -> int:
        """How many more to claim. The next are claimed while the last are being finished, but not without limit."""
        # A sync function that outlives its attempt keeps the place, because its thread cannot be killed.
        running = self._running_agents + self._services.os_threads.abandoned
        return min(self._concurrency - running, 2 * self._concurrency - len(self._attempts))

    def room_bytes(self) -> int:
        """How many bytes of messages to claim at most, about: they stay in memory until their attempts end."""
        return MAX_HELD_CHARACTERS - self.held_characters

    def start(self, claim: Claim) -> None:
        if earlier := self._attempts.get(claim.message_id):
            earlier.stop("lost")  # its lease was lost, and this worker has claimed the message again
        attempt = Attempt(claim, self._services, self._writer, self)
        self._running_agents += 1
        self._attempts[claim.message_id] = attempt
        self.held_characters += claim.characters
        if self._releasing:
            attempt.stop("released")
        self._writer.hint_started(claim)
        task = asyncio.create_task(self._run(attempt), context=self._traces.context_of(claim))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def names_any(self, payload: str) -> bool:
        """Whether the hint about cancelled messages names one of ours."""
        return payload == EVERYTHING or any(str(message_id) in payload for message_id in self._attempts)

    def obey(self, verdicts: Sequence[Verdict]) -> None:
        """Stop the attempts whose leases are cancelled or lost."""
        for verdict in verdicts:
            attempt = self._attempts.get(verdict.message_id)
            if attempt is not None and attempt.claim.lease == verdict.lease:
                attempt.stop(verdict.verdict)

    def release_all(self) -> None:
        """Stop all attempts and release their messages, which counts no failure and no loss."""
        self._releasing = True
        for attempt in self._attempts.values():
            attempt.stop("released")

    async def wait_for_end(self, seconds: float) -> None:
        """Wait until all attempts have ended, at most so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def agent_ended(self) -> None:
        self._running_agents -= 1
        self._wake_for_room()

    async def _run(self, attempt: Attempt) -> None:
        claim = attempt.claim
        status: FinishStatus = "lost"
        try:
            status = await attempt.run()
        except Exception:
            log.exception("an attempt broke", extra={"message_id": str(claim.message_id)})
        finally:
            self._forget(attempt)
        if claim.thread is not None:
            self._work.set()  # for the thread's next message; also after `lost`, because the finish may have succeeded
        if status in {"lost", "gap"}:
            # Either the lease was lost during the attempt, or only the answer of a successful finish was lost, and its
            # repetition found no lease.
            telemetry.loss(work=claim)
            extra = {"message_id": str(claim.message_id), "attempt": claim.attempt}
            log.warning("the lease was not held any more when the attempt ended", extra=extra)
            return
        agent = self._services.registry.get(claim.agent)
        queue_has_room = agent is not None and agent.limits.concurrency is not None
        if queue_has_room:
            self._work.set()
        self._writer.hint_ended(claim, status, queue_has_room=queue_has_room)

    def _forget(self, attempt: Attempt) -> None:
        message_id = attempt.claim.message_id
        self.held_characters -= attempt.claim.characters
        if self._attempts.get(message_id) is attempt:  # else another attempt has the message by now
            del self._attempts[message_id]
            self.leases.pop(message_id, None)
        self._wake_for_room()

    def _wake_for_room(self) -> None:
        if self.wake_for_room:
            self._work.set()
