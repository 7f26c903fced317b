"""The model of sql/: messages that are submitted, and the turns of their threads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import UUID

from tests.support.sql_model_rows import RANKS, Holder, Message, Sent, Thread, Worker


class SubmitModel:
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
