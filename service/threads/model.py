"""The JSON of a thread."""

from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from service.messages.model import Status


class ThreadPlace(NamedTuple):
    """A thread's surrogate key, the last position in its log, and the time of the event at the position that was asked
    for (None: the log has no event there)."""

    thread: int
    last_position: int
    event_at: datetime | None


class MessagePlace(NamedTuple):
    """A message's thread (its surrogate key), its place there, and whether no message follows it."""

    thread: int
    ord: int
    is_last: bool


class ThreadSummary(Struct, frozen=True):
    thread_id: str
    message_count: int
    created_at: datetime
    last_activity: datetime
    last_message_preview: str | None


class States(Struct, frozen=True):
    """The number of messages in each state."""

    queued: int
    processing: int
    completed: int
    failed: int
    cancelled: int

    @property
    def phase(self) -> "Phase":
        if self.queued or self.processing:
            return "executing"
        return "refinement_ready" if self.completed else "idle"


Phase = Literal["idle", "executing", "refinement_ready"]


class Thread(Struct, frozen=True):
    """`phase`: `executing` while a message is open; then `refinement_ready`, if there is an answer; else `idle`."""

    thread_id: str
    message_count: int
    created_at: datetime
    last_activity: datetime
    phase: Phase
    states: States
    metadata: dict[str, Any]
    memory: dict[str, Any] | None  # the JSON that its agents keep


class ThreadChanges(Struct, frozen=True, forbid_unknown_fields=True):
    """What changes of a thread."""

    metadata: Annotated[dict[str, Any], Meta(description="an object, which replaces the metadata")]


class Usage(Struct, frozen=True):
    """Per key, the sum of the numbers that messages of a thread reported; `messages` reported something."""

    thread_id: str
    messages: int
    usage: dict[str, float | int]


class ThreadMessages(Struct, frozen=True):
    """A page of the messages of a thread in their order; `next_cursor` is null on the last page."""

    thread_id: str
    total_messages: int
    messages: list[Status]
    next_cursor: str | None
