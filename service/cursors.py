"""The cursors of lists: where the next page begins, as an opaque text."""

import base64
import binascii
from datetime import datetime, timedelta
from typing import NamedTuple

from service.errors import Invalid
from service.limits import MAX_POSITION

UNKNOWN_CURSOR = "cursor must be one that an earlier page of this list returned."
MAX_CURSOR_DIGITS = 18


def parse_cursor(text: str) -> int:
    """The cursor of a list, a number; raises Invalid."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_CURSOR_DIGITS):
        raise Invalid(UNKNOWN_CURSOR)
    return int(text)


class Position(NamedTuple):
    """The place of an item in a list that is ordered by time."""

    at: datetime
    key: int


def format_position(position: Position) -> str:
    """The cursor of a list that is ordered by time, an opaque text."""
    return base64.urlsafe_b64encode(f"{position.at.isoformat()} {position.key}".encode()).decode()


def parse_position(text: str) -> Position:
    """Raises Invalid."""
    try:
        at, _, key = base64.urlsafe_b64decode(text).decode().partition(" ")
        position = Position(datetime.fromisoformat(at), int(key))
    except (binascii.Error, ValueError):
        raise Invalid(UNKNOWN_CURSOR) from None
    if position.at.utcoffset() != timedelta(0) or not 0 <= position.key <= MAX_POSITION:
        raise Invalid(UNKNOWN_CURSOR)
    return position
