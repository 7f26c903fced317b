"""Claim messages while the worker has room, and run an attempt at each."""

import asyncio
import logging
import time
from collections.abc import Sequence
from uuid import UUID

from service.config import Settings
from service.db.notifier import EVERYTHING
from service.errors import TreadleError
from service.leases.model import Claim, FinishStatus, Verdict
from service.leases.store import LeaseStore
from service.waiting import wait_for
from service.worker.attempt import Attempt
from service.worker.execution import AttemptServices
from service.worker.writer import Writer

log = logging.getLogger(__name__)

CLAIM_BATCH_MESSAGES = 100
CLAIMS_PER_REVERSE_CLAIM = 16  # Every 16th claim begins at the low lane, so that the low lane never starves.


class Claimer:
    """Claims messages, runs their attempts, and stops those that are cancelled, lost or released.

    `work` is set when there may be messages to claim. Implements service.worker.attempt.AttemptOwner.
    """

    def __init__(
        self,
        *,
        worker: str,
        settings: Settings,
        lease_seconds: float,
        store: LeaseStore,
        writer: Writer,
        services: AttemptServices,
        work: asyncio.Event,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._lease_seconds = lease_seconds
        self._store = store
        self._writer = writer
        self._services = services
        self._work = work
        self._attempts: dict[UUID, Attempt] = {}  # by message
        self._tasks: set[asyncio.Task[None]] = set()
        self._running_agents = 0  # the other attempts wait for their finish
        self._lacks_room = False  # there may be more to claim as soon as an attempt ends
        self._claim_calls = 0  # so far
        self._stopping = False
        self._releasing = False
        self.leases: dict[UUID, UUID] = {}  # by message; the heartbeat's thread copies it
        self.claiming_since: float | None = None  # by time.monotonic(): the claim in flight

    def __len__(self) -> int:
        """Attempts that have not ended."""
        return len(self._attempts)

    async def run(self) -> None:
        """Claim until `stop`."""
        while not self._stopping:
            self._work.clear()
            room = min(CLAIM_BATCH_MESSAGES, self._room())
            claims = await self._claim(room) if room > 0 else []
            for claim in claims:
                self._start(claim)
            self._lacks_room = len(claims) >= room
            if not self._lacks_room or room <= 0:
                await wait_for(self._work, self._settings.poll_interval)

    def stop(self) -> None:
        """Claim no more."""
        self._stopping = True
        self._work.set()

    async def wait_for_end(self, seconds: float) -> None:
        """Wait until all attempts have ended, at most so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def release_all(self) -> None:
        """Stop all attempts and release their messages, which counts no failure and no loss."""
        self._releasing = True
        for attempt in self._attempts.values():
            attempt.stop("released")

    def names_any(self, payload: str) -> bool:
        """Whether the hint about cancelled messages names one of ours."""
        return payload == EVERYTHING or any(str(message_id) in payload for message_id in self._attempts)

    def obey(self, verdicts: Sequence[Verdict]) -> None:
        """Stop the attempts whose leases are cancelled or lost."""
        for verdict in verdicts:
            attempt = self._attempts.get(verdict.message_id)
            if attempt is not None and attempt.claim.lease == verdict.lease:
                attempt.stop(verdict.verdict)

    def agent_ended(self) -> None:
        self._running_agents -= 1
        self._wake_if_room_was_lacking()

    def _room(self) -> int:
        """How many more to claim. The next are claimed while the last are being finished, but not without limit."""
        concurrency = self._settings.worker_concurrency
        # A sync agent that outlives its attempt keeps its place, because its thread cannot be killed.
        running = max(self._running_agents, self._services.agent_threads.busy)
        return min(concurrency - running, 2 * concurrency - len(self._attempts))

    async def _claim(self, quantity: int) -> list[Claim]:
        self._claim_calls += 1
        self.claiming_since = time.monotonic()
        try:
            claims = await self._store.claim(
                worker=self._worker,
                queues=self._settings.queues,
                quantity=quantity,
                lease_seconds=self._lease_seconds,
                reverse=self._claim_calls % CLAIMS_PER_REVERSE_CLAIM == 0,
            )
            self.leases |= {claim.message_id: claim.lease for claim in claims}
            return claims
        except TreadleError as error:
            log.log(error.log_level, "claim failed", extra={"error": str(error)})
        except Exception:
            log.exception("claim failed")
        finally:
            self.claiming_since = None
        self._work.clear()  # try again at the next poll
        return []

    def _start(self, claim: Claim) -> None:
        if earlier := self._attempts.get(claim.message_id):
            earlier.stop("lost")  # its lease was lost, and this worker has claimed the message again
        attempt = Attempt(claim, self._services, self._writer, self)
        self._running_agents += 1
        self._attempts[claim.message_id] = attempt
        if self._releasing:
            attempt.stop("released")
        self._writer.hint_started(claim)
        task = asyncio.create_task(self._run(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        if self._attempts.get(message_id) is attempt:  # else another attempt has the message by now
            del self._attempts[message_id]
            self.leases.pop(message_id, None)
        self._wake_if_room_was_lacking()

    def _wake_if_room_was_lacking(self) -> None:
        if self._lacks_room:
            self._work.set()
