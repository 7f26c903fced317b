"""What the server answers about messages in lists, about one in all its parts, and about what happened."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct

from treadle.client.model import Hold, Message, State
from treadle.options import Priority


class MessageSummary(Struct, frozen=True):
    """A message in a list. A long `user_message` is text that is cut, and so is a long `error`."""

    message_id: UUID
    state: State
    hold: Hold | None
    agent: str
    queue: str
    priority: Priority
    thread_id: str | None
    parent: UUID | None
    user_message: Any
    error: str | None
    attempt: int
    max_attempts: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    run_at: datetime
    worker_id: str | None
    usage: dict[str, Any] | None


class Attempt(Struct, frozen=True):
    """One execution. `outcome` is None while it runs; `waited_seconds`: from its queueing to its start."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["completed", "failed", "cancelled", "retry", "parked"] | None
    error: str | None
    waited_seconds: float


class Mark(Struct, frozen=True):
    """A step, a call of a tool or its result, a question or an answer, in the order of the log. `shown` is the value,
    or if it is large the beginning of its text; `began_at`: when the mark before it was written, or for the result
    of a tool when it was called."""

    seq: int
    kind: Literal["step", "tool", "parked", "input"]
    name: str | None
    attempt: int
    began_at: datetime
    at: datetime
    shown: Any
    usage: dict[str, Any] | None


class Descendant(Struct, frozen=True):
    """A message that the message has sent (`depth` 1), or that one of those has sent."""

    message_id: UUID
    parent: UUID
    depth: int
    agent: str
    state: State
    hold: Hold | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    error: str | None
    usage: dict[str, Any] | None


class EventCount(Struct, frozen=True):
    type: str
    events: int
    first_at: datetime
    last_at: datetime


class MessageDetails(Struct, frozen=True):
    """A message in all its parts. `complete`: `events` and `marks` are those of its whole log, not of its first 10,000
    events. `descendants` are at most 200."""

    status: Message
    attempts: list[Attempt]
    marks: list[Mark]
    descendants: list[Descendant]
    events: list[EventCount]
    complete: bool
    traceback: str | None
    callback_url: str | None = None


class Reason(Struct, frozen=True):
    """Why a message has not finished, in a sentence; and what to do about it."""

    cause: str
    sentence: str
    advice: str


class Changes(Struct, frozen=True):
    """What became of the messages that satisfied a filter: `changed` of the `matched` were changed, and `skipped` were
    not, because they had another state by then, or another transaction held them."""

    matched: int
    changed: int
    skipped: int


class Percentiles(Struct, frozen=True):
    """Of lengths of time, in seconds; None where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class Step(Struct, frozen=True):
    """What happened in a step of time that begins `at`. `name`: of the queue or agent where `by` asks for one. `wait`:
    from when a message could run to its first start; `run`: of an attempt; `first_chunk`: from its start to its first
    chunk."""

    at: datetime
    name: str | None
    submitted: int
    completed: int
    failed: int
    retried: int
    cancelled: int
    lost: int
    wait: Percentiles
    run: Percentiles
    first_chunk: Percentiles
    input_tokens: float
    output_tokens: float
    cost: float


class Statistics(Struct, frozen=True):
    """Steps without a message are left out."""

    begin: datetime
    end: datetime
    step_seconds: int
    steps: list[Step]


class Instance(Struct, frozen=True):
    """A warm instance: what an agent keeps in the memory of a worker for a thread."""

    agent: str
    thread_id: str
    worker_id: str
    made_at: datetime
    age_seconds: float
