"""What clients send and see of a message."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

Priority = Literal["high", "normal", "low"]
State = Literal["queued", "processing", "completed", "failed", "cancelled"]
ThreadId = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^/\x00-\x1f\x7f-\x9f]*$(?![\s\S])")]

MAX_BATCH = 1000


class NewMessage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a client asks an agent to do."""

    # The descriptions end the sentence "<field> must be ..." (decoding).
    message: Annotated[
        Annotated[str, Meta(min_length=1)] | dict[str, Any],
        Meta(description="a text that is not empty, or an object where the agent takes one"),
    ]
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"
    thread_id: Annotated[
        ThreadId | None,
        Meta(description="a text of 1 to 255 characters, none of them a control character or a slash"),
    ] = None
    agent: Annotated[str | None, Meta(description="the name of an agent; left out: the default one")] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    delay_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=31_622_400)] | None, Meta(description="a number from 0 to 31622400 (366 days)")
    ] = None
    max_attempts: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="a whole number from 1 to 1000")
    ] = None
    timeout_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=604_800)] | None,
        Meta(description="a number above 0, at most 604800 (7 days)"),
    ] = None
    aside: Annotated[bool, Meta(description="true or false; true takes no turn in the thread")] = False


class NewBatch(Struct, frozen=True, forbid_unknown_fields=True):
    messages: Annotated[
        list[NewMessage], Meta(min_length=1, max_length=MAX_BATCH, description=f"a list of 1 to {MAX_BATCH} messages")
    ]


class Accepted(Struct, frozen=True):
    """The answer to a submit: the message is durable."""

    message_id: UUID
    state: State
    queue_position: int | None
    created_at: datetime
    thread_id: str | None


class AcceptedBatch(Struct, frozen=True):
    messages: list[Accepted]


class Question(Struct, frozen=True):
    """What a message waits with for a person (hold = input)."""

    name: str
    question: Any


class Status(Struct, frozen=True):
    """Where a message stands; null where something is not, or not yet, so."""

    message_id: UUID
    state: State
    user_message: str | dict[str, Any]
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
    hold: str | None
    usage: dict[str, Any] | None
    aside: bool
    parent: UUID | None
    asks: Question | None


class NewInput(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to the question that a message waits with."""

    input: Annotated[Any, Meta(description="any JSON")]
    name: Annotated[str | None, Meta(description="a text, the name of the question; left out: the one it asks now")] = (
        None
    )


class Answered(Struct, frozen=True):
    message_id: UUID
    state: State


class Cancelled(Struct, frozen=True):
    message: str
    message_id: UUID


class Redriven(Struct, frozen=True):
    message_id: UUID
    state: State


class Submission(Struct, frozen=True, omit_defaults=True):
    """A NewMessage with its id, as treadle.submit_many reads it."""

    message_id: UUID
    message: str | dict[str, Any]
    priority: Priority = "normal"
    thread_id: str | None = None
    agent: str | None = None
    metadata: dict[str, Any] | None = None
    delay_seconds: float | None = None
    max_attempts: int | None = None
    timeout_seconds: float | None = None
    aside: bool = False
