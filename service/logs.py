"""Logging to stderr: readable lines, or one JSON object a line.

No line has a secret, or a text that a person or a model wrote: libraries that log such texts are quiet, also where
LOG_LEVEL is debug; of an exception that a library logs, its text is left out; and what looks like a secret is hidden.

A record with the attribute `lines` (of `life_log`) is many lines, each a mapping with its own `message`.
"""

import contextlib
import copy
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec

from service.redaction import redact
from service.terminal import visible_line

# Libraries that log each call, or the texts of people and models, below the level `warning`.
LIBRARIES = (
    *("alembic", "anthropic", "asyncio", "autogen_agentchat", "autogen_core", "autogen_ext", "claude_agent_sdk"),
    *("hpack", "httpcore", "httpcore2", "httpx", "httpx2", "langchain", "langchain_anthropic", "langchain_community"),
    *("langchain_core", "langchain_openai", "langgraph", "langgraph_sdk", "langsmith", "litellm", "LiteLLM"),
    *(
        "litestar",
        "mcp",
        "openai",
        "psycopg",
        "pydantic_ai",
        "requests",
        "sqlalchemy",
        "urllib3",
        "uvicorn",
        "watchfiles",
        "websockets",
    ),
)

_ENCODER = msgspec.json.Encoder(enc_hook=str)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send every log record of this process to stderr; called once, by `cli` (and by the fork server)."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)


class _Handler(logging.StreamHandler[TextIO]):
    """A record that cannot be written is dropped, and the work goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(ValueError):  # an agent has closed sys.stderr, so the error cannot be told there
            super().handleError(record)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


def _traceback(record: logging.LogRecord) -> str | None:
    """That of a library's record without the exception's text, which may quote what a person or a model wrote. (The
    message that fails by such an exception has the whole text.)"""
    if not record.exc_info or record.exc_info[0] is None:
        return None
    kind, _, place = record.exc_info
    if record.name.partition(".")[0] in LIBRARIES:
        return "".join([*traceback.format_tb(place), kind.__name__])
    return "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S%z")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        return visible_line(f"{line} ({extra})" if extra else line)

    def format(self, record: logging.LogRecord) -> str:
        if (lines := getattr(record, "lines", None)) is not None:
            head = f"{self.formatTime(record, self.datefmt)} {record.levelname:<7} {record.name}: "
            return "\n".join([head + _told(line) for line in lines])
        own = copy.copy(record)  # other handlers have the same record
        own.exc_info, own.exc_text = None, _traceback(record)
        return redact(super().format(own))


def _told(line: Mapping[str, object]) -> str:
    fields = iter(line.items())
    _, what = next(fields)
    return f"{what} ({' '.join([f'{key}={value}' for key, value in fields])})"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if (lines := getattr(record, "lines", None)) is not None:
            return _ENCODER.encode_lines([head | line for line in lines]).decode().removesuffix("\n")
        entry = {**head, "message": record.getMessage(), **_extra(record)}
        if trace := _traceback(record):
            entry["traceback"] = trace
        return redact(_ENCODER.encode(entry).decode())
