"""The JSON of lists of messages, of one message in all its parts, and of changes of many messages."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Struct

from service.limits import MAX_PAGE_ITEMS, PAGE_RULE
from service.messages.model import Hold, Priority, State, Status


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


class MessagePage(Struct, frozen=True):
    """A page of messages, the newest first. `next_cursor` is null where no message is left to look at. A call looks at
    1,000 messages at most: until `searched_until`, so that a page may be empty although others follow."""

    messages: list[MessageSummary]
    next_cursor: str | None
    searched_until: datetime | None


Outcome = Literal["completed", "failed", "cancelled", "retry", "parked"]


class Attempt(Struct, frozen=True):
    """One execution. `outcome` is null while it runs; `waited_seconds`: from its queueing to its start."""

    attempt: int
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
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


class Message(Struct, frozen=True):
    """A message in all its parts. `events` and `marks` are those of the first 10,000 events of its log; `complete`
    says that they are all. `descendants` are at most 200. `traceback` is that of a failure, where its dead letter has
    one. `callback_url` is told of its end; only operators of the tenant see it."""

    status: Status
    attempts: list[Attempt]
    marks: list[Mark]
    descendants: list[Descendant]
    events: list[EventCount]
    complete: bool
    traceback: str | None
    callback_url: str | None


FILTER_TEXT = "a text that is not empty"
Text = Annotated[Annotated[str, Meta(min_length=1, max_length=1000)] | None, Meta(description=FILTER_TEXT)]


class Selection(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The messages that a call changes: those that satisfy every one of these, as in the query of GET /messages."""

    agent: Text = None
    queue: Text = None
    thread_id: Text = None
    session_id: Text = None  # another name of thread_id
    parent: Text = None
    since: Text = None
    until: Text = None
    error: Text = None
    q: Text = None
    state: Annotated[
        Literal["queued", "processing"] | None, Meta(description="queued or processing, and only for a cancel")
    ] = None
    preview: Annotated[bool, Meta(description="true or false; with true nothing is changed")] = True
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ITEMS, description=PAGE_RULE)] = 100
    cursor: Annotated[str | None, Meta(description="the next_cursor of the call before")] = None


class Changes(Struct, frozen=True):
    """What became of a part of the selection: `matched` messages satisfied it. Of these `changed` were changed, and
    `skipped` were not, because they have another state by now, or because another transaction holds them. Call again
    with `next_cursor` for the next part; null: this was the last one."""

    matched: int
    changed: int
    skipped: int
    next_cursor: str | None
    searched_until: datetime | None
