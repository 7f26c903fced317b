"""Events: as clients receive them, and as the stores read them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

# The types that the service itself writes. Agents must choose other names for their events.
RESERVED = frozenset(
    {"queued", "waiting", "started", "retry", "parked", "input", "done", "error", "cancelled", "gap", "step"}
)


class Event(Struct, frozen=True):
    seq: int
    type: str
    data: Any
    created_at: datetime


class EventPage(Struct, frozen=True):
    """Events after a cursor. `next_after` is the cursor of the next page; `over` says that no event will follow."""

    message_id: UUID
    events: list[Event]
    next_after: int
    over: bool


class Entry(Struct, frozen=True):
    """An event as the SQL functions return it. `position` is the reader's cursor (seq, or thread_pos), `data` is JSON
    text."""

    message_id: UUID
    seq: int
    position: int
    type: str
    data: str
    created_at: datetime
    last: bool
