"""The rows of the model of sql/, and its times."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from service.leases.model import Claim

HOUR = 3600
INTERVAL, GRACE, TIMEOUT, LEASE = 1, 1, 3, 4  # hours
MAX_LOSSES = 2
RANKS = ("high", "normal", "low")
_moments = itertools.count()  # the order of what happens within an hour
AGENTS = {"echo": "default", "other": "side", "late": "late"}  # and their queues


@dataclass(eq=False)
class Lease:
    id: UUID
    worker: str
    claimed_at: int
    expires_at: int
    cancel_requested: bool = False
    moment: int = field(default_factory=_moments.__next__)


@dataclass(frozen=True)
class Sent:
    """A message as the client submits it."""

    name: str
    id: UUID
    thread: str | None
    agent: str
    priority: str
    aside: bool
    delay: int
    max_attempts: int

    def __repr__(self) -> str:
        return self.name

    def body(self) -> dict[str, Any]:
        return {
            "message": self.name,
            "message_id": str(self.id),
            "thread_id": self.thread,
            "agent": self.agent,
            "priority": self.priority,
            "aside": self.aside,
            "delay_seconds": self.delay * HOUR,
            "max_attempts": self.max_attempts,
        }


@dataclass(eq=False)
class Message:
    """A message as the database stores it."""

    sent: Sent
    run_at: int
    rank: int
    ord: int | None = None
    state: str = "queued"
    hold: str | None = None
    lane: str | None = None
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    result: str | None = None
    completed_at: int | None = None
    lease: Lease | None = None
    log: list[str] = field(default_factory=lambda: ["queued"])

    def __repr__(self) -> str:
        return self.sent.name

    @property
    def id(self) -> UUID:
        return self.sent.id

    @property
    def thread(self) -> str | None:
        return self.sent.thread

    @property
    def queue(self) -> str:
        return AGENTS[self.sent.agent]


@dataclass(eq=False)
class Holder:
    """A claim as its worker keeps it, even after the lease was lost."""

    sent: Sent
    worker: str
    claim: Claim
    seq: int  # of its next event

    @property
    def lease(self) -> UUID:
        return self.claim.lease

    def __repr__(self) -> str:
        return f"attempt {self.claim.attempt} of {self.sent} by {self.worker}"


@dataclass(eq=False)
class Thread:
    turn: Message | None = None
    last_ord: int = 0
    last_activity: int = -1000
    over: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Worker:
    heartbeat_at: int
    beating_since: int
    suspected_at: int | None = None
    reported: int | None = None  # the moment of its last report

    def report(self) -> int:
        """Returns the moment of the report before; -1: this is the first."""
        former, self.reported = self.reported, next(_moments)
        return -1 if former is None else former
