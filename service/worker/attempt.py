"""One attempt at one message: execute, close the log, finish."""

import logging
import time
from typing import Protocol

import msgspec

from service import telemetry
from service.leases.model import Claim, Finish, FinishStatus, Outcome
from service.worker.event_buffer import EventBuffer
from service.worker.execution import AttemptServices, Execution
from service.worker.outcome import StopReason, broken
from service.worker.writer import Writer

log = logging.getLogger(__name__)


class AttemptOwner(Protocol):
    def agent_ended(self) -> None:
        """The agent's part is over: the rest of the attempt only waits for PostgreSQL."""


class Attempt:
    def __init__(self, claim: Claim, services: AttemptServices, writer: Writer, owner: AttemptOwner) -> None:
        self.claim = claim
        self._services = services
        self._writer = writer
        self._owner = owner
        self._events = EventBuffer(claim, writer, self, max_event_bytes=services.settings.max_event_bytes)
        self._execution = Execution(claim, services, self._events)
        self._append_error: Exception | None = None  # why events are missing in the log
        self._began_at = time.monotonic()

    def stop(self, reason: StopReason | Exception) -> None:
        """End it early; the first reason counts."""
        if isinstance(reason, Exception) and self._append_error is None:
            self._append_error = reason
        self._execution.stop(reason)

    async def run(self) -> FinishStatus:
        """Returns the message's new state, or `lost` if the lease is no longer held."""
        outcome = await self._execute()
        run_seconds = time.monotonic() - self._began_at
        first_seq, unsent = await self._events.close()
        if outcome is None:
            return "lost"
        outcome = self._fail_if_events_are_missing(outcome)
        telemetry.run(work=self.claim, outcome=outcome.kind, seconds=run_seconds)
        claim, usage = self.claim, self._execution.usage
        finish = Finish(claim.message_id, claim.lease, outcome, usage, first_seq, unsent, claim.thread)
        try:
            finished = await self._writer.finish(finish)
        except Exception as error:  # PostgreSQL does not accept the result or an event
            finish = self._failed_finish(finish, error)
            finished = await self._writer.finish(finish)
        if finished.status not in {"lost", "gap"}:
            self._tell_end(finish, finished.status)
        return finished.status

    def _tell_end(self, finish: Finish, status: FinishStatus) -> None:
        seconds, outcome = time.monotonic() - self._began_at, finish.outcome
        if finish.usage is not None:
            telemetry.tokens(work=self.claim, usage=finish.usage)
        telemetry.finish(work=self.claim, outcome=outcome.kind, status=status, seconds=seconds)
        if status == "queued" and outcome.is_retried:
            telemetry.retry(work=self.claim, outcome=outcome.kind, delay_seconds=outcome.delay_seconds or 0.0)

    async def _execute(self) -> Outcome | None:
        try:
            return await self._execution.run()
        except Exception as error:
            log.exception("an attempt broke", extra={"message_id": str(self.claim.message_id)})
            return broken(error, self.claim.failures, self._services.settings)
        finally:
            self._execution.close()
            self._owner.agent_ended()

    def _fail_if_events_are_missing(self, outcome: Outcome) -> Outcome:
        """An answer whose events are not in the log is a failure."""
        if self._append_error is not None and outcome.kind == "completed":
            return self._execution.failed(self._append_error)
        return outcome

    def _failed_finish(self, finish: Finish, error: Exception) -> Finish:
        """The same attempt as a failure, without anything that PostgreSQL may not accept."""
        outcome = msgspec.structs.replace(self._execution.failed(error), traceback=None)
        return msgspec.structs.replace(finish, outcome=outcome, usage=None, events=[])
