"""To be asked by a message, and to answer it, as a person does."""

from typing import Any
from uuid import UUID

import msgspec

from service.db.pool import Connection
from tests.conftest import until
from tests.support.harness import log, look


async def asks(sql: Connection, message_id: UUID, count: int = 1) -> Any:
    """What the message asks, once it has asked so often: the event's name and question."""

    async def parked() -> list[Any]:
        row = await look(sql, message_id)
        entries = [entry.data for entry in await log(sql, message_id) if entry.type == "parked"]
        return entries if row["hold"] == "input" else []

    entries = await until(parked, lambda found: len(found) == count)
    return entries[-1]


async def answer(sql: Connection, message_id: UUID, given: Any, name: str | None = None) -> None:
    text = msgspec.json.encode(given).decode()
    assert await sql.fetchval("select treadle.input($1, $2, $3)", message_id, text, name) == "queued"
