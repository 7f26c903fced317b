"""The JSON of queues, agents and workers."""

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from service.messages.model import Priority


class Waiting(Struct, frozen=True):
    id: UUID
    priority: Priority
    created_at: datetime
    user_message: Any


class Processing(Struct, frozen=True):
    id: UUID
    priority: Priority
    created_at: datetime
    user_message: Any
    started_at: datetime | None
    worker_id: str | None
    thread_id: str | None
    agent: str
    attempt: int


class Overview(Struct, frozen=True):
    """All queues together. Each list has at most 100 messages, and shows a long `user_message` as text that is cut."""

    total_queued: int
    total_processing: int
    total_completed: int
    total_failed: int
    total_cancelled: int
    queued_messages: list[Waiting]
    current_processing: Processing | None
    processing: list[Processing]


class Queue(Struct, frozen=True):
    """`depth` counts the queued messages, `visible` those that a worker could claim now (exact to 1,000 a lane)."""

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
    workers: int  # that claim from it, with a heartbeat in the last ten seconds


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


class DeadLetters(Struct, frozen=True):
    """A page of the dead letters of a queue, the newest first; `next_cursor` is null on the last page."""

    queue: str
    dead_letters: list[DeadLetter]
    next_cursor: str | None


class Agent(Struct, frozen=True):
    agent: str
    queue: str
    timeout_seconds: float
    max_attempts: int
    is_default: bool
    input: dict[str, Any] | None
    description: str
    registered_at: datetime
    settings: dict[str, Any]


class Instance(Struct, frozen=True):
    """A warm instance: what an agent keeps in the memory of a worker for a thread."""

    agent: str
    thread_id: str
    worker_id: str
    made_at: datetime
    age_seconds: float


class DroppedInstance(Struct, frozen=True):
    """Workers were told to drop the instance of this agent for this thread."""

    agent: str
    thread_id: str


class Worker(Struct, frozen=True):
    worker_id: str
    host: str
    pid: int
    queues: list[str]
    concurrency: int
    in_flight: int
    started_at: datetime
    heartbeat_at: datetime
    memory_bytes: int | None
