"""What a worker receives from PostgreSQL and writes to it while it holds a lease."""

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from service.messages.model import Priority, State

ParkKind: TypeAlias = Literal["children", "input"]
"""What a parked message waits for: other messages, or a person's answer. Also its hold."""

OutcomeKind: TypeAlias = Literal[
    ParkKind, "completed", "error", "rejected", "deferred", "overloaded", "released", "lost"
]
"""How an attempt ended; the table at the head of sql/60_settle.sql says what the message becomes."""

AppendStatus: TypeAlias = Literal["ok", "lost", "gap", "busy"]
"""`lost`: the lease is no longer held. `gap`: earlier events are missing. `busy`: another transaction holds a lock."""

FinishStatus: TypeAlias = Literal[State, "lost", "gap", "busy"]
"""The message's new state, or why nothing was written."""

SentMessageState: TypeAlias = Literal[State, "deleted"]

VerdictKind: TypeAlias = Literal["lost", "cancelled"]

MIN_LEASE_SECONDS = 60.0
LEASE_WORKER_TIMEOUTS = 6


def lease_seconds(worker_timeout: float) -> float:
    """How long a lease lasts that no heartbeat extends."""
    return max(MIN_LEASE_SECONDS, worker_timeout * LEASE_WORKER_TIMEOUTS)


class Claim(Struct, frozen=True):
    """A message under lease: all that an attempt needs. `body`, `metadata` and the thread's `memory` are JSON text.
    `overloaded_seconds`: for how long its attempts have found a service of the agent overloaded."""

    message_id: UUID
    lease: UUID
    thread: int | None
    thread_id: str | None
    ord: int | None
    queue: str
    agent: str
    priority: Priority
    body: str
    metadata: str
    attempt: int
    max_attempts: int
    failures: int
    losses: int
    timeout_seconds: float
    last_seq: int
    created_at: datetime
    aside: bool = False
    parent: UUID | None = None  # the message that sent it
    memory: str | None = None
    overloaded_seconds: float | None = None
    depth: int = 0  # messages above it, each sent by the one before
    tenant: str = "default"

    @property
    def characters(self) -> int:
        return len(self.body) + len(self.metadata) + len(self.memory or "")

    @property
    def subscription(self) -> str | None:
        """The subscription that delivered it, as `tenant/subscription`."""
        record = self._record
        return None if record is None else f"{self.tenant}/{record.subscription}"

    @property
    def delivery(self) -> str | None:
        """How its subscription delivers (service.subscriptions.model.Delivery)."""
        record = self._record
        return None if record is None else record.delivery

    @property
    def _record(self) -> "_DeliveredRecord | None":
        if '"subscription"' not in self.metadata:
            return None
        with contextlib.suppress(msgspec.ValidationError):  # a client wrote this metadata
            return msgspec.json.decode(self.metadata, type=_Delivered).record
        return None


class _DeliveredRecord(Struct):
    subscription: str
    delivery: str


class _Delivered(Struct):
    record: _DeliveredRecord


class RemoteClaim(Claim, frozen=True):
    """Of a remote worker. `traceparent`: the W3C trace context that its attempt goes on with."""

    traceparent: str | None = None


class Claimed(Struct, frozen=True):
    """The answer to a claim. `passed_rows`: how many lane rows it passed over, because other transactions hold their
    messages or threads. `is_filled`: it ended because its bytes were used up."""

    claims: list[Claim]
    passed_rows: int = 0
    is_filled: bool = False


class EventToAppend(Struct, frozen=True):
    """An event of an attempt; `data` is JSON text. `sends`: messages that are submitted in the same transaction, a JSON
    array as treadle.submit_many reads it."""

    type: str
    data: str
    sends: str | None = None

    @property
    def characters(self) -> int:
        return len(self.data) + len(self.sends or "")


class Append(Struct, frozen=True):
    """Events of one attempt; the first has seq `first_seq`. An event with `sends` is the only one of its append."""

    message_id: UUID
    lease: UUID
    first_seq: int
    events: Sequence[EventToAppend]
    thread: int | None = None  # the key of the message's thread, for the hint
    is_first: bool = False  # of its attempt

    @property
    def sends(self) -> str | None:
        return self.events[0].sends if self.events else None

    @property
    def characters(self) -> int:
        return sum([event.characters for event in self.events])


class Appended(Struct, frozen=True):
    message_id: UUID
    status: AppendStatus
    cancel_requested: bool


class Outcome(Struct, frozen=True):
    """How an attempt ended. `result` is JSON text; `delay_seconds` is the time until the next attempt.

    With `sends` (messages that are submitted in the same transaction), `memory` (the new memory of the thread, JSON
    text) or a ParkKind (`children`: the messages to wait for) it needs a transaction of its own.
    """

    kind: OutcomeKind
    result: str | None = None
    error: str | None = None
    traceback: str | None = None
    delay_seconds: float | None = None
    sends: str | None = None
    memory: str | None = None
    children: list[UUID] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether treadle.finish can settle it in a batch; treadle.conclude settles the others one by one."""
        return self.sends is None and self.memory is None and self.kind not in {"children", "input"}

    @property
    def is_retried(self) -> bool:
        """Whether the message, if it stays open, waits for another attempt because this one did not succeed."""
        return self.kind in {"error", "deferred", "overloaded", "lost"}

    @property
    def characters(self) -> int:
        return len(self.result or "") + len(self.sends or "") + len(self.memory or "")


class Finish(Struct, frozen=True):
    """The end of an attempt, with the events that are not in the log yet. `usage` is a JSON object."""

    message_id: UUID
    lease: UUID
    outcome: Outcome
    usage: str | None
    first_seq: int
    events: Sequence[EventToAppend]
    thread: int | None  # the key of the message's thread, as its claim names it

    @property
    def characters(self) -> int:
        characters = self.outcome.characters
        return characters + sum([event.characters for event in self.events]) if self.events else characters


class Finished(Struct, frozen=True):
    message_id: UUID
    status: FinishStatus


class SentMessage(Struct, frozen=True):
    """A message that another one has sent and waits for. `result` is JSON text, `thread_id` the thread whose turn it
    takes."""

    message_id: UUID
    state: SentMessageState
    result: str | None = None
    error: str | None = None
    parent: UUID | None = None
    thread_id: str | None = None


class EarlierResults(Struct, frozen=True):
    """What a message's earlier attempts left in its log: results of steps, questions and their answers, by name, as
    JSON text; the ids of the messages that they sent, and of those the ones that were cancelled before a redrive.
    `retries` counts the retries from a step, each of which forgot what came after the step."""

    steps: dict[str, str] = {}
    inputs: dict[str, str] = {}
    questions: dict[str, str] = {}
    sent: set[str] = set()
    cancelled: set[str] = set()
    retries: int = 0


class Verdict(Struct, frozen=True):
    """The answer to a heartbeat about one lease: the worker must end its attempt."""

    message_id: UUID
    lease: UUID
    verdict: VerdictKind


class HeartbeatReport(Struct, frozen=True):
    """What a worker tells PostgreSQL at each heartbeat; `leases` maps message_id to lease."""

    worker: str
    host: str
    pid: int
    queues: Sequence[str]
    concurrency: int
    started_at: datetime
    server_started: datetime | None
    leases: dict[UUID, UUID]
    agents: Sequence[str]
    memory_bytes: int | None = None
    tenants: Sequence[str] = ()  # whose messages it claims; empty: those of all
