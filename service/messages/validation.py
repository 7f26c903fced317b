"""Checks of a submitted message that no type can express."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from service.config import Settings
from service.errors import Unprocessable
from service.messages.model import NewInput, NewMessage
from service.outbound_filter import AddressRefused, filter_of

# PostgreSQL's jsonb cannot hold NUL. In JSON text it is \u0000, but only after an even number of backslashes.
NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def validate_messages(messages: Sequence[NewMessage], settings: Settings, *, in_batch: bool) -> None:
    """Raises Unprocessable for the first problem; in a batch the sentence names the message."""
    problem = (
        _first_too_long(messages, settings.max_message_chars)
        or _first_with_nul(messages)
        or _first_without_thread(messages)
        or _first_with_two_threads(messages)
        or _first_misplaced_way(messages, in_batch=in_batch)
        or _first_refused_callback(messages, settings)
    )
    if problem is not None:
        number, sentence = problem
        raise Unprocessable(f"messages[{number}]: {sentence}" if in_batch else sentence)


def validate_input(given: NewInput, settings: Settings) -> None:
    """Raises Unprocessable."""
    body = msgspec.json.encode(given)
    if len(body) > settings.max_event_bytes:
        raise Unprocessable(f"input has {len(body)} bytes; at most {settings.max_event_bytes} are allowed.")
    if _has_nul(body):
        raise Unprocessable("input must not contain the NUL character (U+0000).")


def validate_metadata(metadata: dict[str, Any] | None) -> None:
    """Raises Unprocessable."""
    if _has_nul(msgspec.json.encode(metadata)):
        raise Unprocessable("metadata must not contain the NUL character (U+0000).")


def _first_too_long(messages: Sequence[NewMessage], max_chars: int) -> tuple[int, str] | None:
    for number, message in enumerate(messages):
        content = message.message
        chars = len(content) if isinstance(content, str) else len(msgspec.json.encode(content))
        if chars > max_chars:
            return number, f"message has {chars} characters; at most {max_chars} are allowed."
    return None


def _first_without_thread(messages: Sequence[NewMessage]) -> tuple[int, str] | None:
    for number, message in enumerate(messages):
        if message.aside and message.thread_id is None:
            return number, "An aside needs a thread_id."
        if message.thread_metadata is not None and message.thread_id is None:
            return number, "thread_metadata needs a thread_id."
    return None


def _first_with_two_threads(messages: Sequence[NewMessage]) -> tuple[int, str] | None:
    for number, message in enumerate(messages):
        if message.session_id is not None:
            return number, "session_id is another name of thread_id: send one of them."
    return None


def _first_misplaced_way(messages: Sequence[NewMessage], *, in_batch: bool) -> tuple[int, str] | None:
    for number, message in enumerate(messages):
        if message.on_busy != "enqueue":
            if in_batch:
                return number, "on_busy is for a message that is submitted alone."
            if message.thread_id is None:
                return number, "on_busy needs a thread_id."
            if message.aside or message.delay_seconds:
                return number, "on_busy is for a message that takes its turn at once: neither an aside nor delayed."
    return None


def _first_refused_callback(messages: Sequence[NewMessage], settings: Settings) -> tuple[int, str] | None:
    for number, message in enumerate(messages):
        if message.callback_url is not None:
            try:
                filter_of(settings.webhook_networks, http=settings.webhook_http).check_url(message.callback_url)
            except AddressRefused as error:
                return number, f"callback_url is refused: {error}"
    return None


def _first_with_nul(messages: Sequence[NewMessage]) -> tuple[int, str] | None:
    if not _has_nul(msgspec.json.encode(messages)):
        return None
    return next(
        (number, f"{name} must not contain the NUL character (U+0000).")
        for number, message in enumerate(messages)
        for name in message.__struct_fields__
        if _has_nul(msgspec.json.encode(getattr(message, name)))
    )


def _has_nul(text: bytes) -> bool:
    return b"\\u0000" in text and NUL_ESCAPE.search(text) is not None  # the first test is far cheaper
