"""The model of sql/: what workers do under their leases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from tests.support.sql_model_rows import INTERVAL, LEASE, MAX_LOSSES, RANKS, Holder, Lease, Message, Worker
from tests.support.sql_model_submits import SubmitModel


class LeaseModel(SubmitModel):
    """Each method models the function of sql/ with its name."""

    def claimable(
        self, queues: Sequence[str], first_lane: str, lane_ids: Mapping[UUID, tuple[str, str, int]]
    ) -> list[Message]:
        lanes = [first_lane, *(lane for lane in RANKS if lane != first_lane)]
        ready = [
            m
            for m in self.messages.values()
            if m.state == "queued" and m.hold is None and m.queue in queues and m.queue not in self.paused
            if not self.locked(m)
        ]
        return sorted(ready, key=lambda m: (lanes.index(m.lane or ""), queues.index(m.queue), lane_ids[m.id]))

    def claim(self, message: Message, worker: str, lease: UUID, at: int) -> None:
        message.state = "processing"
        message.attempt += 1
        message.log.append("started")
        message.lease = Lease(lease, worker, at, at + LEASE)

    def append(self, holder: Holder, first_seq: int, chunks: Sequence[str]) -> str:
        message = self.held_by(holder)
        if message is None:
            return "lost"
        if first_seq > len(message.log) + 1:
            return "gap"
        message.log += chunks[len(message.log) + 1 - first_seq :]
        return "ok"

    def finish(
        self, holder: Holder, first_seq: int, chunks: Sequence[str], at: int, outcome: str, delay: int, result: str
    ) -> str:
        message = self.held_by(holder)
        if message is None:
            return "lost"
        if self.locked(message):
            return "busy"
        if first_seq > len(message.log) + 1:
            return "gap"
        message.log += chunks[len(message.log) + 1 - first_seq :]
        self.settle(message, outcome, at, delay=delay, result=result)
        return message.state

    def settle(self, m: Message, outcome: str, at: int, *, delay: int | None = None, result: str | None = None) -> None:
        if outcome == "cancelled" or (m.lease and m.lease.cancel_requested):
            verdict = "cancelled"
        elif outcome == "completed":
            verdict = "completed"
        elif outcome in ("deferred", "overloaded") or (outcome == "error" and m.failures + 1 < m.sent.max_attempts):
            verdict = "backoff"
        elif outcome == "lost" and m.losses + 1 < MAX_LOSSES:
            verdict = "again" if delay is None else "backoff"
        elif outcome == "released":
            verdict = "again"
        else:
            verdict = "failed"
        m.failures += outcome in ("error", "rejected") and verdict != "cancelled"
        m.losses += outcome == "lost"
        m.lease = None
        m.hold = "backoff" if verdict == "backoff" else None
        m.lane = {"again": m.sent.priority, "failed": "dlq"}.get(verdict)
        if verdict in ("again", "backoff"):
            m.state = "queued"
            m.run_at = at + (delay or 0) if verdict == "backoff" else m.run_at
            m.log.append("retry")
            return
        m.state, m.completed_at = verdict, at
        m.result = result if verdict == "completed" else None
        m.log.append({"completed": "done", "failed": "error"}.get(verdict, verdict))
        if m.thread:
            thread = self.threads[m.thread]
            thread.over[m.state] += 1
            thread.last_activity = at
            if thread.turn is m:
                thread.turn = self.next_of(m.thread)
                if thread.turn:
                    self.admit(thread.turn)

    def settle_leases(self, messages: Iterable[Message], outcome: str, at: int) -> set[UUID]:
        taken = [message for message in messages if not self.locked(message)]
        for message in taken:
            self.settle(message, outcome, at)
        return {message.id for message in taken}

    def beat(self, worker: str, named: Sequence[Holder], grace: int, at: int) -> dict[UUID, str]:
        """Returns the verdicts."""
        row = self.workers.setdefault(worker, Worker(at, at))
        former = row.report()
        if row.heartbeat_at + 2 * INTERVAL <= at:
            row.beating_since = at
            former = -1  # after a gap the age of a lease says nothing
        row.heartbeat_at, row.suspected_at = at, None
        orphans = [
            m
            for m in self.messages.values()
            if m.lease and m.lease.worker == worker and m.lease.claimed_at + grace <= at
            if m.lease.moment < former and m.lease.id not in {holder.lease for holder in named}
        ]
        self.settle_leases(orphans, "released", at)
        verdicts = {}
        for holder in named:
            message = self.held_by(holder)
            if message is None or message.lease is None:
                verdicts[holder.sent.id] = "lost"
                continue
            if message.lease.expires_at <= at + LEASE // 2:
                message.lease.expires_at = at + LEASE
            if message.lease.cancel_requested:
                verdicts[holder.sent.id] = "cancelled"
        return verdicts

    def sign_off(self, worker: str, at: int) -> None:
        left = [m for m in self.messages.values() if m.lease and m.lease.worker == worker]
        self.settle_leases(left, "released", at)
        self.workers.pop(worker, None)
