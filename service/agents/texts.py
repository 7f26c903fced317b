"""Texts and JSON that PostgreSQL accepts: without U+0000 and lone surrogates."""

from typing import Any

import msgspec

from service.agents.protobuf_types import to_json


def clean(text: str) -> str:
    """The text with U+FFFD for U+0000 and lone surrogates."""
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\x00", "\ufffd")


def json_or_text(text: str) -> Any:
    """The decoded JSON; the text itself if it is not JSON, or nested too deeply to be read."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def encode_clean(value: Any) -> str:
    """JSON text. Raises TypeError, ValueError, OverflowError or RecursionError for values that are not JSON."""
    try:
        text = msgspec.json.encode(value, enc_hook=to_json).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(_clean_deep(msgspec.to_builtins(value, str_keys=True, enc_hook=to_json))).decode()
    return msgspec.json.encode(_clean_deep(msgspec.json.decode(text))).decode() if "\\u0000" in text else text


def _clean_deep(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_clean_deep(key): _clean_deep(item) for key, item in value.items()}
    return [_clean_deep(item) for item in value] if isinstance(value, list | tuple) else value
