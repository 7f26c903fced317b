"""The JSON of a message: what clients send, and what they receive."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from service.limits import (
    ATTEMPTS_RULE,
    DELAY_RULE,
    MAX_ATTEMPTS,
    MAX_BATCH_MESSAGES,
    MAX_DELAY_SECONDS,
    MAX_TIMEOUT_SECONDS,
    MAX_URL_CHARS,
    OWN_METADATA,
    THREAD_ID_RULE,
    TIMEOUT_RULE,
    ThreadId,
)

Priority = Literal["high", "normal", "low"]
State = Literal["queued", "processing", "completed", "failed", "cancelled"]
Hold = Literal["thread", "delay", "backoff", "children", "input", "share"]  # why a queued message cannot be claimed yet
HoldCause = Literal[Hold, "overloaded", "tenant_running", "tenant_suspended"]
QueueCause = Literal["queue_paused", "no_worker", "no_agent", "queue_concurrency", "locked", "workers_busy", "position"]
RunCause = Literal["running", "worker_silent", "worker_lost", "overdue", "cancel_requested"]
Cause = Literal[HoldCause, QueueCause, RunCause, "completed", "failed", "cancelled"]
OnBusy = Literal["enqueue", "reject", "interrupt", "rollback", "steer"]


def labels(metadata: dict[str, Any] | None) -> dict[str, Any]:
    """The metadata of a client that knows them as labels, which mean nothing to the server: without the names that
    Treadle and its agents read."""
    return {name: value for name, value in (metadata or {}).items() if name not in OWN_METADATA}


class NewMessage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message as a client submits it."""

    # The descriptions end the sentence "<field> must be ..." (json_input).
    message: Annotated[
        Annotated[str, Meta(min_length=1)] | dict[str, Any],
        Meta(description="a text that is not empty, or an object where the agent takes one"),
    ]
    priority: Annotated[Priority, Meta(description="high, normal or low")] = "normal"
    thread_id: Annotated[ThreadId | None, Meta(description=THREAD_ID_RULE)] = None
    agent: Annotated[str | None, Meta(description="the name of an agent, or left out for the default agent")] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="an object")] = None
    delay_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS)] | None, Meta(description=DELAY_RULE)
    ] = None
    max_attempts: Annotated[Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] | None, Meta(description=ATTEMPTS_RULE)] = None
    max_losses: Annotated[Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] | None, Meta(description=ATTEMPTS_RULE)] = None
    timeout_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_TIMEOUT_SECONDS)] | None, Meta(description=TIMEOUT_RULE)
    ] = None
    aside: Annotated[bool, Meta(description="true or false; with true the message takes no turn in its thread")] = False
    on_busy: Annotated[
        OnBusy,
        Meta(description="enqueue, reject, interrupt, rollback or steer; it says what becomes of the open messages"),
    ] = "enqueue"
    callback_url: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS)] | None,
        Meta(description="an https address that is told of the message's end; plain http needs WEBHOOK_HTTP"),
    ] = None
    thread_metadata: Annotated[
        dict[str, Any] | None, Meta(description="an object, the metadata of a thread that begins with this message")
    ] = None
    session_id: Annotated[ThreadId | None, Meta(description=THREAD_ID_RULE)] = None  # another name of thread_id

    def __post_init__(self) -> None:
        if self.session_id is not None and self.thread_id in (None, self.session_id):  # else validation refuses both
            msgspec.structs.force_setattr(self, "thread_id", self.session_id)
            msgspec.structs.force_setattr(self, "session_id", None)


class NewBatch(Struct, frozen=True, forbid_unknown_fields=True):
    messages: Annotated[
        list[NewMessage],
        Meta(
            min_length=1,
            max_length=MAX_BATCH_MESSAGES,
            description=f"a list of 1 to {MAX_BATCH_MESSAGES} messages",
        ),
    ]


class Accepted(Struct, frozen=True):
    """The response to a submit. The message is stored durably."""

    message_id: UUID
    state: State
    queue_position: int | None
    created_at: datetime
    thread_id: str | None


class AcceptedBatch(Struct, frozen=True):
    messages: list[Accepted]


class Question(Struct, frozen=True):
    """The question of a message that waits for a person (`hold` is input)."""

    name: str
    question: Any


class Status(Struct, frozen=True):
    """The state of a message. A field without a value, or without one yet, is null."""

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


def decoded(message: Status) -> Status:
    """With the values of its JSON, which the store leaves as they are."""
    fields: dict[str, Any] = {
        name: msgspec.json.decode(value)
        for name in ("user_message", "result", "metadata", "usage")
        if isinstance(value := getattr(message, name), msgspec.Raw)
    }
    if isinstance(message.asks, msgspec.Raw):
        fields["asks"] = msgspec.json.decode(message.asks, type=Question)
    return msgspec.structs.replace(message, **fields)


class Reason(Struct, frozen=True):
    """Why a message has not finished, in a sentence; and what to do about it."""

    cause: Cause
    sentence: str
    advice: str


class Explanation(Struct, frozen=True):
    """The reasons why a message has not finished, the nearest first; for one that is over, how it ended."""

    message_id: UUID
    reasons: list[Reason]


class NewInput(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to the question that a message waits with."""

    input: Annotated[Any, Meta(description="any JSON")]
    name: Annotated[
        str | None, Meta(description="a text, the name of the question, or left out for the current question")
    ] = None


class MessageChanges(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What changes of a queued message; a field that is left out stays as it is."""

    priority: Annotated[Priority | None, Meta(description="high, normal or low")] = None
    delay_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=MAX_DELAY_SECONDS)] | None, Meta(description=DELAY_RULE)
    ] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="an object, which replaces the metadata")] = None


class RetryPlace(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a message that is over is run again."""

    step: Annotated[
        Annotated[str, Meta(min_length=1)],
        Meta(description="a text, the name of a step whose result the message keeps"),
    ]


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
    """A NewMessage with its id, as treadle.submit_many reads it. `traceparent`: that of its request (W3C).
    `ends_question`: it takes the place of an answer, if its thread waits for one. `actor`: who submits it, for the
    audit, where it may cancel other messages."""

    message_id: UUID
    message: str | dict[str, Any]
    priority: Priority = "normal"
    thread_id: str | None = None
    agent: str | None = None
    metadata: dict[str, Any] | None = None
    delay_seconds: float | None = None
    max_attempts: int | None = None
    max_losses: int | None = None
    timeout_seconds: float | None = None
    aside: bool = False
    traceparent: str | None = None
    on_busy: OnBusy = "enqueue"
    callback_url: str | None = None
    thread_metadata: dict[str, Any] | None = None
    ends_question: bool = False
    actor: str | None = None
