"""Logging to stderr: readable lines, or one JSON object a line."""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal

import msgspec

from service.terminal import visible_line

# Libraries that log each call, or the texts of people and models, below this level.
NOISY = (
    *("alembic", "anthropic", "autogen_agentchat", "autogen_core", "autogen_ext", "httpcore", "httpcore2", "httpx"),
    *("httpx2", "langchain", "langchain_core", "langgraph", "langsmith", "litestar", "openai", "uvicorn", "websockets"),
)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send every log record of this process to stderr; called once, by `cli` (and by the fork server)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _STANDARD}


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        return visible_line(f"{line} ({extra})" if extra else line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry, enc_hook=str).decode()
