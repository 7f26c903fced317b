"""Messages in SQL: submit them, wait for them, and read their logs, as a user of psql does."""

import time
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from service.db.pool import Connection
from tests.support.waiting import LIMIT_SECONDS, until

FINAL_STATES = ("completed", "failed", "cancelled")


class Entry(msgspec.Struct, frozen=True):
    """An event of a log."""

    type: str
    data: Any
    created_at: datetime


def id_of(seconds: float, version: int = 7) -> str:
    """A message id of a time that far from now. Ids that PostgreSQL makes within a millisecond have a random order."""
    digits = f"{int((time.time() + seconds) * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}-{version}000-8000-000000000000"


async def submit(sql: Connection, message: Any, **fields: Any) -> UUID:
    """Submit one message; fields as treadle.submit_many takes them."""
    return (await submit_many(sql, [{"message": message, **fields}]))[0]


async def submit_many(sql: Connection, messages: list[dict[str, Any]]) -> list[UUID]:
    rows = await sql.fetch(
        "select message_id from treadle.submit_many($1::jsonb, notify => true)", msgspec.json.encode(messages).decode()
    )
    return [row["message_id"] for row in rows]


async def overview(sql: Connection, message_id: UUID) -> dict[str, Any]:
    """The message as treadle.message_overview shows it."""
    return dict(await sql.fetchrow("select * from treadle.message_overview where message_id = $1", message_id) or {})


async def children(sql: Connection, parent: Any) -> list[dict[str, Any]]:
    """What the message has sent, as treadle.message_overview shows it."""
    rows = await sql.fetch("select * from treadle.message_overview where parent = $1", parent)
    return [dict(row) for row in rows]


async def settled(sql: Connection, message_id: UUID, *states: str, seconds: float = LIMIT_SECONDS) -> dict[str, Any]:
    """Wait until the message is in one of these states (by default: over)."""
    wanted = states or FINAL_STATES
    return dict(await until(lambda: overview(sql, message_id), lambda row: row.get("state") in wanted, seconds))


async def run(sql: Connection, message: Any, **fields: Any) -> dict[str, Any]:
    """Submit a message and wait until it is over."""
    return await settled(sql, await submit(sql, message, **fields))


async def log(sql: Connection, message_id: UUID) -> list[Entry]:
    """The message's log as a reader receives it; its seqs must be dense from 1."""
    rows = await sql.fetch("select * from treadle.read_events(array[$1::uuid], array[0], 100000)", message_id)
    while rows and len(rows) < await sql.fetchval(
        "select count(*) from treadle.events where message_id = $1", message_id
    ):
        more = await sql.fetch(
            "select * from treadle.read_events(array[$1::uuid], array[$2::integer], 100000)",
            message_id,
            rows[-1]["seq"],
        )
        assert more
        rows += more
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    return [Entry(row["type"], msgspec.json.decode(row["data"] or "null"), row["created_at"]) for row in rows]


async def types(sql: Connection, message_id: UUID) -> list[str]:
    """The types of a message's events, in order."""
    return [entry.type for entry in await log(sql, message_id)]


async def text(sql: Connection, message_id: UUID) -> str:
    """The text that the last attempt streamed; its chunks must be numbered from 0."""
    chunks: list[Any] = []
    for entry in await log(sql, message_id):
        if entry.type == "started":
            chunks = []
        elif entry.type == "chunk":
            chunks.append(entry.data)
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    return "".join(chunk["chunk"] for chunk in chunks)


async def dead_letter(sql: Connection, message_id: Any) -> Any:
    return await sql.fetchrow("select * from treadle.dead_letters where message_id = $1", message_id)
