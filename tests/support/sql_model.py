"""A model of the functions of sql/ in plain Python: tests/sql/test_machine.py compares the two.

Time is in whole hours, so that the duration of a test makes no difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from tests.support.sql_model_rows import (
    INTERVAL,
    LEASE,
    MAX_LOSSES,
    RANKS,
    TIMEOUT,
    Holder,
    Lease,
    Message,
    Sent,
    Thread,
    Worker,
)


class Model:
    """The committed rows. Each method models the function of sql/ with its name.

    `locked`: whether another transaction holds a message.
    """

    def __init__(self, locked: Callable[[Message], bool]) -> None:
        self.messages: dict[UUID, Message] = {}
        self.threads: dict[str, Thread] = {}
        self.workers: dict[str, Worker] = {}
        self.paused: set[str] = set()
        self.locked = locked

    def queued(self, queue: str) -> int:
        return sum(message.state == "queued" and message.queue == queue for message in self.messages.values())

    def of(self, thread: str) -> list[Message]:
        return [message for message in self.messages.values() if message.thread == thread]

    def counts(self, name: str) -> tuple[Any, ...]:
        """Counts of a thread: all messages, messages in each state; and the message whose turn it is."""
        states = Counter(message.state for message in self.of(name))
        turn = self.threads[name].turn
        return (
            self.threads[name].last_ord,
            *(states[state] for state in ("queued", "processing", "completed", "failed", "cancelled")),
            turn and turn.id,
        )

    def held_by(self, holder: Holder) -> Message | None:
        message = self.messages.get(holder.sent.id)
        return message if message and message.lease and message.lease.id == holder.lease else None

    def submit(self, sents: Sequence[Sent], at: int, busy: Collection[Sent] = ()) -> list[str]:
        """Returns their states."""
        states = []
        news: list[Message] = []
        for sent in sents:
            known = self.messages.get(sent.id)
            states.append(known.state if known else "busy" if sent in busy else "queued")
            if known is None and sent not in busy:
                hold = "delay" if sent.delay else None
                news.append(Message(sent, at + sent.delay, RANKS.index(sent.priority), hold=hold))
        self.messages |= {new.id: new for new in news}
        names = {new.thread for new in news if new.thread}
        for name in names:
            thread = self.threads.setdefault(name, Thread())
            thread.last_activity = max(thread.last_activity, at)
            mine = [new for new in news if new.thread == name]
            ready = [new for new in mine if not new.hold and not new.sent.aside]
            thread.turn = thread.turn or min(ready, key=lambda new: new.rank, default=None)
            for new in mine:
                thread.last_ord += 1
                new.ord = thread.last_ord
                if new in ready and new is not thread.turn:
                    new.hold = "thread"
        for new in news:
            if new.hold is None:
                self.admit(new)
        for name in names:
            self.promote(name)
        return states

    def admit(self, message: Message) -> None:
        message.hold, message.lane = None, message.sent.priority

    def next_of(self, name: str) -> Message | None:
        return min((m for m in self.of(name) if m.hold == "thread"), key=lambda m: (m.rank, m.ord or 0), default=None)

    def promote(self, name: str) -> None:
        thread, waits = self.threads[name], self.next_of(name)
        head = thread.turn
        if waits and head and head.state == "queued" and not head.hold and not head.attempt and head.rank > waits.rank:
            head.hold, head.lane, thread.turn = "thread", None, None
        if waits and not thread.turn:
            thread.turn = waits
            self.admit(waits)

    def claimable(
        self, queues: Sequence[str], reverse: bool, lane_ids: Mapping[UUID, tuple[str, str, int]]
    ) -> list[Message]:
        lanes = RANKS[::-1] if reverse else RANKS
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
        if self.locked(message):
            return "busy"
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
        elif outcome == "deferred" or (outcome == "error" and m.failures + 1 < m.sent.max_attempts):
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
        m.lane = {"again": "high", "failed": "dlq"}.get(verdict)
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

    def take_back(self, messages: Iterable[Message], outcome: str, at: int) -> set[UUID]:
        taken = [message for message in messages if not self.locked(message)]
        for message in taken:
            self.settle(message, outcome, at)
        return {message.id for message in taken}

    def beat(self, worker: str, named: Sequence[Holder], grace: int, at: int) -> dict[UUID, str]:
        """Returns the verdicts."""
        row = self.workers.setdefault(worker, Worker(at, at))
        if row.heartbeat_at + 2 * INTERVAL <= at:
            row.beating_since = at
        row.heartbeat_at, row.suspected_at = at, None
        orphans = [
            m
            for m in self.messages.values()
            if m.lease and m.lease.worker == worker and m.lease.claimed_at + grace <= at
            if m.lease.id not in {holder.lease for holder in named}
        ]
        self.take_back(orphans, "released", at)
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
        self.take_back(left, "released", at)
        self.workers.pop(worker, None)

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
                lost = self.take_back(held, "lost", at)
                taken |= dict.fromkeys(lost, name)
                if len(lost) == len(held):
                    del self.workers[name]
        if steady:
            nobody_s = [
                m
                for m in self.messages.values()
                if m.lease
                and (
                    m.lease.expires_at <= at
                    or (m.lease.claimed_at + TIMEOUT <= at and m.lease.worker not in self.workers)
                )
            ]
            taken |= dict.fromkeys(self.take_back(nobody_s, "lost", at))
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
