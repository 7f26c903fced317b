"""What a caller looks for, as the SQL functions take it (sql/89_find_messages.sql)."""

from collections.abc import Mapping
from typing import get_args
from uuid import UUID

from service.cursors import UNKNOWN_CURSOR
from service.errors import Invalid, Unprocessable
from service.messages.model import State
from service.params import parse_parent, parse_time

STATES = (*get_args(State), "open")


def parse_filter(given: Mapping[str, str | None]) -> dict[str, str]:
    """What a message must satisfy, without values that are None; raises Invalid, Unprocessable."""
    found = {name: value for name, value in given.items() if value is not None}
    if any("\0" in value for value in found.values()):
        raise Unprocessable("A filter must not contain the NUL character (U+0000).")
    if found.get("state", "open") not in STATES:
        raise Unprocessable(f"state must be one of {', '.join(STATES)}.")
    if "parent" in found:
        found["parent"] = str(parse_parent(found["parent"]))
    for name in ("since", "until"):
        if name in found:
            found[name] = parse_time(found[name], name).isoformat()
    return found


def parse_before(cursor: str | None) -> UUID | None:
    """Raises Invalid."""
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError:
        raise Invalid(UNKNOWN_CURSOR) from None
