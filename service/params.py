"""Parameters in paths, queries and headers that the routes of several nouns take.

Litestar checks the declared range of a parameter; api/problems.py answers "<name> must be <description>."
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar.datastructures import ResponseHeader
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from service.errors import Invalid, NotFound, Unprocessable
from service.limits import (
    KEY_RULE,
    MAX_KEY_CHARS,
    MAX_PAGE_ITEMS,
    MAX_POSITION,
    PAGE_RULE,
    THREAD_ID_RULE,
    is_thread_id,
)

MessageId = Annotated[str, PathParameter(description="The id of a message (a UUID).")]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="A repeated request with the same key returns the first answer and writes nothing; kept 24 hours.",
    ),
]
NEXT_PAGE = ResponseHeader(
    name="Link", description='The address of the next page (rel="next").', documentation_only=True
)
PageLimit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE_ITEMS, description=PAGE_RULE)]


def next_page(path: str, **query: str | int | None) -> dict[str, str]:
    """The header with the address of the next page; none where `cursor` is None."""
    given = {name: value for name, value in query.items() if value}
    return {"Link": f'<{path}?{urlencode(given)}>; rel="next"'} if query["cursor"] is not None else {}


def parse_message_id(text: str) -> UUID:
    """Raises NotFound: no message has an id that is no UUID."""
    return _parse_uuid(text, "message")


def parse_record_id(text: str) -> UUID:
    """Raises NotFound."""
    return _parse_uuid(text, "record")


def parse_parent(text: str) -> UUID:
    """The id of a message in a filter; raises Invalid."""
    try:
        return UUID(text)
    except ValueError:
        raise Invalid("parent must be the id of a message (a UUID).") from None


def one_thread_id(thread_id: str | None, session_id: str | None) -> str | None:
    """`session_id` is another name of `thread_id`. Raises Unprocessable if both are given and differ."""
    if session_id is not None and thread_id not in (None, session_id):
        raise Unprocessable("session_id is another name of thread_id: send one of them.")
    return session_id if thread_id is None else thread_id


def parse_thread_id(text: str) -> str:
    """Raises Unprocessable."""
    if not is_thread_id(text):
        raise Unprocessable(f"thread_id must be {THREAD_ID_RULE}.")
    return text


def parse_time(text: str, name: str) -> datetime:
    """A time of RFC 3339; raises Invalid."""
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None:
            return time.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise Invalid(f"{name} must be a time such as 2026-11-22T00:18:35Z.")


def parse_event_id(text: str | None, name: str, largest: int = MAX_POSITION) -> int:
    """The id of the last event that a client has seen; 0 where it sends none. `name` says where it was sent.

    Raises Invalid.
    """
    text = text or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= largest):
        raise Invalid(f"{name} must be the id of the last event received, a whole number.")
    return int(text)


def parse_key(text: str) -> str:
    """An Idempotency-Key; raises Unprocessable."""
    if not 1 <= len(text) <= MAX_KEY_CHARS:
        raise Unprocessable(f"Idempotency-Key must be {KEY_RULE}.")
    return text


def hash_request(path: str, items: Sequence[msgspec.Struct]) -> bytes:
    """SHA-256 of a decoded request: white space and the order of keys do not make it another one."""
    return hashlib.sha256(path.encode() + b"\n" + msgspec.json.encode(items, order="sorted")).digest()


def _parse_uuid(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"There is no {what} {text[:100]!r}.") from None
