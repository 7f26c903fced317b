"""An entry of a log as clients see it."""

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

# What the service itself writes; agents choose other names for theirs.
RESERVED = frozenset(
    {"queued", "waiting", "started", "retry", "parked", "input", "done", "error", "cancelled", "gap", "step"}
)


class Event(Struct, frozen=True):
    seq: int
    type: str
    data: Any
    created_at: datetime


class EventPage(Struct, frozen=True):
    """Events after a cursor; `next_after` is the cursor for the next page, `over` says that none will follow."""

    message_id: UUID
    events: list[Event]
    next_after: int
    over: bool


class Entry(Struct, frozen=True):
    """A row of read_events or read_thread_events; `position` is the reader's cursor (seq, or thread_pos), `data` JSON
    text."""

    message_id: UUID
    seq: int
    position: int
    type: str
    data: str
    created_at: datetime
    last: bool
