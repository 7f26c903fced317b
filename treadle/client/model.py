"""What the server answers. Fields that a newer server adds are ignored. Times are in UTC."""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from msgspec import Struct

from treadle.options import Priority

State = Literal["queued", "processing", "completed", "failed", "cancelled"]
Hold = Literal["thread", "delay", "backoff", "children", "input", "share"]
Scope = Literal["submit", "read", "operate", "publish", "work", "admin"]
T = TypeVar("T")


class Accepted(Struct, frozen=True):
    """A submitted message; it is stored durably. `queue_position` counts from 0, None: it is not due yet."""

    message_id: UUID
    state: State
    queue_position: int | None
    created_at: datetime
    thread_id: str | None


class Question(Struct, frozen=True):
    """The question that a message waits with."""

    name: str
    question: Any


class Message(Struct, frozen=True):
    """The status of a message. A field is None if it does not apply, or not yet."""

    message_id: UUID
    state: State
    user_message: Any  # a text or an object; made of a record, any JSON
    priority: Priority
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    result: Any
    error: str | None
    queue_position: int | None
    thread_id: str | None
    agent: str
    attempt: int
    max_attempts: int
    run_at: datetime
    worker_id: str | None
    metadata: dict[str, Any]
    queue: str
    hold: Hold | None
    usage: dict[str, Any] | None
    aside: bool
    parent: UUID | None
    asks: Question | None

    @property
    def is_over(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.completed_at is not None


class Event(Struct, frozen=True):
    """An event of a log. `id` is the cursor with which a stream goes on after it; None: it is not stored (`waiting`,
    `gap`). In the stream of a thread, `data` also has `message_id` and `seq`."""

    id: str | None
    type: str
    data: Any

    @property
    def text(self) -> str:
        """The piece of the answer in a `chunk`; empty for other events."""
        return str(self.data["chunk"]) if self.type == "chunk" else ""


class Page(Struct, Generic[T], frozen=True):
    """Items of a list; `next_cursor` asks for the page that follows, None on the last one."""

    items: list[T]
    next_cursor: str | None = None


class ThreadSummary(Struct, frozen=True):
    thread_id: str
    message_count: int
    created_at: datetime
    last_activity: datetime
    last_message_preview: str | None


class Thread(Struct, frozen=True):
    """`states` counts its messages by state; `memory` is the JSON that its agents keep. `phase` is `idle`, `executing`
    or `refinement_ready`."""

    thread_id: str
    message_count: int
    created_at: datetime
    last_activity: datetime
    phase: str
    states: dict[State, int]
    metadata: dict[str, Any]
    memory: dict[str, Any] | None


class Queue(Struct, frozen=True):
    """`depth` counts the queued messages, `visible` those that a worker could claim now."""

    name: str
    paused: bool
    depth: int
    visible: int
    in_flight: int
    completed: int
    failed: int
    cancelled: int
    oldest_age_seconds: float | None
    throughput_per_minute: int
    mean_processing_seconds: float | None
    created_at: datetime
    workers: int


class DeadLetter(Struct, frozen=True):
    message_id: UUID | None
    queue: str
    reason: str | None
    attempts: int | None
    dead_at: datetime
    thread_id: str | None
    agent: str | None
    user_message: Any
    traceback: str | None


class Agent(Struct, frozen=True):
    """`input` is the JSON Schema of its input; None: it takes text."""

    agent: str
    queue: str
    timeout_seconds: float
    max_attempts: int
    is_default: bool
    input: dict[str, Any] | None
    description: str
    registered_at: datetime
    settings: dict[str, Any]


class Worker(Struct, frozen=True):
    worker_id: str
    host: str
    pid: int
    queues: list[str]
    concurrency: int
    in_flight: int
    started_at: datetime
    heartbeat_at: datetime
    memory_bytes: int | None = None


class Token(Struct, frozen=True):
    """An access token for a browser."""

    token: str
    expires_at: datetime


class TopicSubscription(Struct, frozen=True):
    subscription: str
    next_offset: int
    lag: int


class Topic(Struct, frozen=True):
    """Its records have the offsets from `first_offset` to before `next_offset`."""

    topic: str
    retention_hours: float | None
    max_record_bytes: int
    schema_subject: str | None
    first_offset: int
    next_offset: int
    bytes: int
    records_per_minute: int
    created_at: datetime
    subscriptions: list[TopicSubscription]


class TopicRecord(Struct, frozen=True):
    """A record of a topic, as readers without a subscription see it."""

    offset: int
    record_id: UUID
    key: str | None
    headers: dict[str, str] | None
    value: Any
    schema_id: int | None
    created_at: datetime


class RecordPage(Struct, frozen=True):
    """Go on with `next_offset`. `gap`: records that retention deleted before the first one here."""

    records: list[TopicRecord]
    next_offset: int
    gap: int


class PublishedRecord(Struct, frozen=True):
    """A record that is stored durably. `known`: it was there already."""

    record_id: UUID
    created_at: datetime
    known: bool


class Position(Struct, frozen=True):
    topic: str
    next_offset: int
    lag: int


class Subscription(Struct, frozen=True):
    """`lag`: records that are not delivered yet; `open`: messages that are queued or processing. The other counts are
    of all times: what became of the messages; `dropped` instead of dead letters; records that the filter left out; and
    those that retention deleted before they were delivered."""

    subscription: str
    topics: list[str]
    agent: str
    delivery: str
    max_in_flight: int
    filter: dict[str, Any] | None
    dead_letter: bool
    paused: bool
    created_at: datetime
    lag: int
    open: int
    completed: int
    failed: int
    cancelled: int
    dropped: int
    filtered: int
    expired: int
    positions: list[Position]
