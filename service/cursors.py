"""The cursors of lists: where the next page begins, as an opaque text."""

import base64
import binascii
from datetime import datetime, timedelta
from typing import NamedTuple

from service.errors import Invalid
from service.limits import MAX_POSITION

UNKNOWN_CURSOR = "cursor must be one that an earlier page of this list returned."
MAX_CURSOR_DIGITS = 18
MAX_POSITION_DIGITS = len(str(MAX_POSITION))


def parse_cursor(text: str) -> int:
    """The cursor of a list, a number; raises Invalid."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_CURSOR_DIGITS):
        raise Invalid(UNKNOWN_CURSOR)
    return int(text)


class Position(NamedTuple):
    """The place of an item in a list that is ordered by time."""

    at: datetime
    key: int


class NamedPosition(NamedTuple):
    """The same where items have a name and no number."""

    at: datetime
    name: str


def format_position(position: Position | NamedPosition) -> str:
    """The cursor of a list that is ordered by time, an opaque text."""
    at, key = position
    return format_name(f"{at.isoformat()} {key}")


def parse_position(text: str) -> Position:
    """Raises Invalid."""
    at, key = _parse_timed(text)
    if not (key.isascii() and key.isdecimal() and len(key) <= MAX_POSITION_DIGITS and int(key) <= MAX_POSITION):
        raise Invalid(UNKNOWN_CURSOR)
    return Position(at, int(key))


def parse_named_position(text: str) -> NamedPosition:
    """Raises Invalid."""
    return NamedPosition(*_parse_timed(text))


def format_name(name: str) -> str:
    """The cursor of a list that is ordered by name, an opaque text."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def parse_name(text: str) -> str:
    """Raises Invalid."""
    try:
        name = base64.b64decode(text, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Invalid(UNKNOWN_CURSOR) from None
    if not name or "\0" in name:
        raise Invalid(UNKNOWN_CURSOR)
    return name


def _parse_timed(text: str) -> tuple[datetime, str]:
    """Raises Invalid."""
    time, _, key = parse_name(text).partition(" ")
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        raise Invalid(UNKNOWN_CURSOR) from None
    if at.utcoffset() != timedelta(0):
        raise Invalid(UNKNOWN_CURSOR)
    return at, key
