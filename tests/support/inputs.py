"""Wait for a question of a message (`Context.input`), and answer it."""

from typing import Any
from uuid import UUID

import msgspec

from service.db.pool import Connection
from tests.support.messages import log, overview
from tests.support.waiting import until


async def asked_input(sql: Connection, message_id: UUID, count: int = 1) -> Any:
    """Wait until the message waits for its `count`th input; returns the data of that `parked` event."""

    async def parked() -> list[Any]:
        row = await overview(sql, message_id)
        entries = [entry.data for entry in await log(sql, message_id) if entry.type == "parked"]
        return entries if row["hold"] == "input" else []

    entries = await until(parked, lambda found: len(found) == count)
    return entries[-1]


async def give_input(sql: Connection, message_id: UUID, given: Any, name: str | None = None) -> None:
    text = msgspec.json.encode(given).decode()
    assert await sql.fetchval("select treadle.input($1, $2, $3)", message_id, text, name) == "queued"
