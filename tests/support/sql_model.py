"""A model of the functions of sql/ in plain Python: tests/sql/test_machine.py compares the two.

Time is in whole hours, so that the duration of a test makes no difference.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

from tests.support.sql_model_leases import LeaseModel
from tests.support.sql_model_rows import INTERVAL, TIMEOUT, Message


class Model(LeaseModel):
    """The whole model: also the janitor's chores, cancel, redrive and deletions."""

    def reap(self, janitor: str, silent: set[str], at: int) -> dict[UUID, str | None]:
        """`silent`: workers whose listener's lock is free. Returns the messages taken back, with their workers."""
        me = self.workers.get(janitor)
        awake = me is not None and at < me.heartbeat_at + 2 * INTERVAL  # up to now
        since = me.beating_since if me is not None and awake else None
        steady = since is not None and since + TIMEOUT <= at
        taken: dict[UUID, str | None] = {}
        for name, row in sorted(self.workers.items()):
            if name == janitor:
                continue
            if since is not None and name in silent and (row.suspected_at is None or row.suspected_at < since):
                row.suspected_at = at
            doubted = (
                since is not None
                and name in silent
                and row.suspected_at is not None
                and since <= row.suspected_at <= at - 2 * INTERVAL
            )
            if doubted or (steady and row.heartbeat_at + TIMEOUT <= at):
                held = [m for m in self.messages.values() if m.lease and m.lease.worker == name]
                lost = self.settle_leases(held, "lost", at)
                taken |= dict.fromkeys(lost, name)
                if len(lost) == len(held):
                    del self.workers[name]
        if steady:
            unowned = [
                m
                for m in self.messages.values()
                if m.lease
                and (
                    m.lease.expires_at <= at
                    or (m.lease.claimed_at + TIMEOUT <= at and m.lease.worker not in self.workers)
                )
            ]
            taken |= dict.fromkeys(self.settle_leases(unowned, "lost", at))
        return taken

    def admit_due(self, at: int) -> int:
        due = [
            m
            for m in self.messages.values()
            if m.hold in ("delay", "backoff") and m.run_at <= at and not self.locked(m)
        ]
        placed = [m for m in due if m.hold == "delay" and m.thread and not m.sent.aside]
        for message in due:
            if message in placed:
                message.hold = "thread"
            else:
                self.admit(message)
        for name in {message.thread for message in placed if message.thread}:
            self.promote(name)
        return len(due)

    def cancel(self, id: UUID, at: int) -> str:
        message = self.messages.get(id)
        if message is None:
            return "TR404"
        if message.lease:
            message.lease.cancel_requested = True
            return "requested"
        if message.state != "queued":
            return "TR409"
        self.settle(message, "cancelled", at)
        return "cancelled"

    def redrive(self, id: UUID, at: int) -> str:
        message = self.messages.get(id)
        if message is None:
            return "TR404"
        if message.state != "failed":
            return "TR409"
        message.state, message.completed_at, message.run_at = "queued", None, at
        message.lane, message.rank, message.failures, message.losses = None, -1, 0, min(message.losses, 1)
        message.log.append("queued")
        if message.thread:
            thread = self.threads[message.thread]
            thread.over["failed"] -= 1
            thread.last_activity = at
        if message.thread and not message.sent.aside:
            message.hold = "thread"
            self.promote(message.thread)
        else:
            self.admit(message)
        return "queued"

    def forget(self, messages: Sequence[Message]) -> int:
        for message in messages:
            del self.messages[message.id]
        return len(messages)

    def delete_thread(self, name: str) -> int | str:
        if self.threads.pop(name, None) is None:
            return "TR404"
        return self.forget(self.of(name))

    def purge(self, hours: int, dead_hours: int, at: int, held: Collection[str]) -> int:
        purged = self.forget(
            [
                m
                for m in self.messages.values()
                if m.thread is None and m.completed_at is not None and not self.locked(m)
                if m.completed_at + (dead_hours if m.state == "failed" else hours) <= at
            ]
        )
        for name, thread in list(self.threads.items()):
            kept = max(hours, dead_hours) if thread.over["failed"] else hours
            if thread.last_ord == thread.over.total() and thread.last_activity + kept <= at and name not in held:
                purged += self.forget(self.of(name))
                del self.threads[name]
        return purged
