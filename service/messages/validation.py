"""What no type can say of a message that a client submits."""

import re
from collections.abc import Sequence

import msgspec

from service.config import Settings
from service.errors import Unprocessable
from service.messages.model import NewInput, NewMessage

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def check(messages: Sequence[NewMessage], settings: Settings, *, batch: bool) -> None:
    """Raises Unprocessable for what no type can say; in a batch it names the message."""
    problem = _too_long(messages, settings.max_message_chars) or _with_nul(messages) or _beside_nothing(messages)
    if problem is not None:
        number, detail = problem
        raise Unprocessable(f"messages[{number}]: {detail}" if batch else detail)


def check_input(given: NewInput, settings: Settings) -> None:
    """Raises Unprocessable."""
    body = msgspec.json.encode(given)
    if len(body) > settings.max_event_bytes:
        raise Unprocessable(f"input has {len(body)} bytes; at most {settings.max_event_bytes} are allowed.")
    if _NUL.search(body):
        raise Unprocessable("input must not contain the NUL character (U+0000).")


def _too_long(messages: Sequence[NewMessage], limit: int) -> tuple[int, str] | None:
    for number, message in enumerate(messages):
        size = len(message.message) if isinstance(message.message, str) else len(msgspec.json.encode(message.message))
        if size > limit:
            return number, f"message has {size} characters; at most {limit} are allowed."
    return None


def _beside_nothing(messages: Sequence[NewMessage]) -> tuple[int, str] | None:
    return next(
        (
            (number, "An aside needs a thread_id.")
            for number, message in enumerate(messages)
            if message.aside and message.thread_id is None
        ),
        None,
    )


def _with_nul(messages: Sequence[NewMessage]) -> tuple[int, str] | None:
    if not _NUL.search(msgspec.json.encode(messages)):
        return None
    return next(
        (number, f"{name} must not contain the NUL character (U+0000).")
        for number, message in enumerate(messages)
        for name in message.__struct_fields__
        if _NUL.search(msgspec.json.encode(getattr(message, name)))
    )
