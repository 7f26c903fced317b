"""The API's answers: read them, and check their form."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx

from service.db.pool import Connection
from tests.support.api_client import Client

OVERVIEW_FIELDS = {
    *("total_queued", "total_processing", "total_completed", "total_failed", "total_cancelled"),
    *("queued_messages", "current_processing", "processing"),
}
QUEUE_FIELDS = {
    *("name", "paused", "depth", "visible", "in_flight", "completed", "failed", "cancelled", "oldest_age_seconds"),
    *("throughput_per_minute", "mean_processing_seconds", "created_at", "workers"),
}
SUBMIT_TABLES = ("messages", "threads", "events", "thread_log", "idempotency", "counters")
UNKNOWN_ID = "01890000-0000-7000-8000-000000000000"  # no message has it


async def get(api: Client, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def totals(overview: dict[str, Any]) -> list[int]:
    return [overview[f"total_{state}"] for state in ("queued", "processing", "completed", "failed", "cancelled")]


async def positions(api: Client, *ids: str) -> list[int | None]:
    return [(await api.status(message_id))["queue_position"] for message_id in ids]


def parse_time(text: str) -> datetime:
    """Parse a time that the API wrote; it must have a time zone."""
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo is not None
    return parsed


def problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """Check that the answer is a problem of RFC 9457 whose detail is one sentence with these words; returns it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found.keys() == {"type", "title", "status", "detail"}
    assert (found["type"], found["status"]) == ("about:blank", status)
    assert found["title"]
    detail = found["detail"]
    assert detail.endswith(".")
    assert 10 < len(detail) < 250, detail
    assert not any(cryptic in detail for cryptic in ("`", "$", "\n", "Traceback", "msgspec", "regex", "got ")), detail
    for word in words:
        assert word in detail
    return dict(found)


async def row_counts(sql: Connection) -> dict[str, int]:
    """Rows in every table that a submit writes to, lanes included."""
    tables = [f"treadle.{table}" for table in SUBMIT_TABLES]
    tables += [row[0] for row in await sql.fetch("select 'pgmq.q_' || queue_name from pgmq.list_queues() order by 1")]
    return {table: await sql.fetchval(f"select count(*) from {table}") for table in tables}


@contextlib.contextmanager
def named_case(name: str) -> Iterator[None]:
    """Add the name of the case to an exception that is raised in the block."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the case: {name}")
        raise
