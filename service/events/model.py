"""Events: as clients receive them, as the stores read them, and cursors into their logs."""

from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Struct

from service.access.principal import Principal
from service.messages.model import State

# The types that the service itself writes. Agents must choose other names for their events.
RESERVED_TYPES = frozenset(
    {
        *("queued", "waiting", "started", "retry", "parked", "input", "done", "error", "cancelled"),
        *("gap", "unauthorized", "step", "chunk"),
    }
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
    """A row of treadle.read_events. `cursor` is the reader's cursor after it (seq, or thread_pos in a thread's log),
    `data` is JSON text, and `last` says that the message is over and this is its last event."""

    message_id: UUID
    seq: int
    cursor: int
    type: str
    data: str
    created_at: datetime
    last: bool


OUT_OF_REACH = "The thread has a message of an agent that the key or token may not see."


class _Queued(Struct, frozen=True):
    agent: str | None = None


def is_out_of_reach(entry: Entry, principal: Principal) -> bool:
    """Whether with this entry of a thread's log a message of another agent than the principal's begins. From here on
    the thread is as if it did not exist for that principal."""
    if principal.agents is None or entry.type != "queued":
        return False
    agent = msgspec.json.decode(entry.data, type=_Queued).agent
    return agent is not None and agent not in principal.agents


Log: TypeAlias = UUID | int  # of a message (its id), or of a thread (threads.id)


class Cursor(NamedTuple):
    """A reader's place in a log: it has seen everything up to `after` (seq, or thread_pos in a thread's log). The id of
    a message may be a text."""

    log: Log | str
    after: int


class Page(Struct):
    """The events after a cursor. `more`: further events follow that the page has no room for. `ends_before`: the log
    ends there, before the cursor; so the cursor belongs to another log, or to a part of this one that a failover lost.

    Readers at the same place share a page. `encoded`: the entries as server-sent events, once a reader has needed them.
    """

    entries: list[Entry]
    more: bool = False
    ends_before: int | None = None
    encoded: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """It tells its reader nothing."""
        return not self.entries and not self.more and self.ends_before is None


StopOfMany = Literal["paused", "tenant_suspended", "unclaimed", "no_agent"]  # of messages of a queue, tenant or agent
QueueStop = Literal["delay", "backoff", "share", StopOfMany, "tenant_running", "queue_concurrency", "locked"]


class QueuePosition(NamedTuple):
    """A message's state, and its position in its queue if it has one. `stop`: why it waits, if not for the messages
    before it."""

    state: State
    position: int | None
    stop: QueueStop | None = None
