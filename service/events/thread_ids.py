"""The ids of the events of a thread's stream: `<position>-<mark>`.

The mark is the time of the event, in microseconds since 1970 and in hexadecimal. A thread that is deleted and begun
again, and a log whose end a failover lost, have other events at the same positions. So the mark tells whether the log
still has the event that a client has seen.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from service.errors import Invalid
from service.events.model import Entry
from service.limits import MAX_POSITION
from service.threads.model import ThreadPlace

_ID = re.compile(r"([0-9]{1,19})(?:-([0-9a-f]{1,16}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class ThreadEventId(NamedTuple):
    """An event that a client has seen. `mark` is None where the client sends only a position."""

    position: int
    mark: int | None


def format_id(entry: Entry) -> str:
    return f"{entry.cursor}-{_mark(entry.created_at):x}"


def parse_id(text: str | None, name: str) -> ThreadEventId:
    """0 where the client sends none. `name` says where it was sent. Raises Invalid."""
    found = _ID.fullmatch(text or "0")
    if found is None or int(found[1]) > MAX_POSITION:
        raise Invalid(f"{name} must be the id of the last event received.")
    return ThreadEventId(int(found[1]), int(found[2], 16) if found[2] else None)


def is_of_log(seen: ThreadEventId, place: ThreadPlace) -> bool:
    """Whether the log has the event. An event whose row was deleted may be one of it."""
    if seen.position > place.last_position:
        return False
    return seen.mark is None or place.event_at is None or seen.mark == _mark(place.event_at)


def _mark(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
