"""Rows of the database, as tests look at them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg

from service.db.pool import Connection
from tests.support.sql_calls import SqlSession


async def fetch_row(sql: Connection, query: str, *arguments: Any) -> asyncpg.Record:
    """The first row of a query that must find one."""
    row = await sql.fetchrow(query, *arguments)
    assert row is not None
    return row


class SqlRows(SqlSession):
    """Queries of the tables, the logs and the lanes."""

    async def message(self, message_id: UUID) -> asyncpg.Record:
        return await fetch_row(self.sql, "select * from treadle.messages where message_id = $1", message_id)

    async def state(self, message_id: UUID) -> tuple[str, str | None]:
        """State and hold."""
        row = await self.message(message_id)
        return row["state"], row["hold"]

    async def thread(self, thread_id: str) -> asyncpg.Record:
        """Its row, with its counts and its turn."""
        query = "select t.*, s.* from treadle.threads t join treadle.thread_turns s on s.thread = t.id"
        return await fetch_row(self.sql, f"{query} where t.thread_id = $1", thread_id)

    async def log(self, message_id: UUID) -> list[tuple[str, Any]]:
        """Types and data of a message's events."""
        rows = await self.sql.fetch(
            "select type, data from treadle.events where message_id = $1 order by seq", message_id
        )
        return [(row["type"], row["data"]) for row in rows]

    async def types(self, message_id: UUID) -> list[str]:
        return [type for type, _ in await self.log(message_id)]

    async def lane(self, lane: str, queue: str = "default") -> list[UUID]:
        """The messages of a lane, in its order."""
        rows = await self.sql.fetch(f"select message ->> 'message_id' as id from pgmq.q_{queue}_{lane} order by msg_id")
        return [UUID(row["id"]) for row in rows]

    async def lanes(self, queue: str = "default") -> list[list[UUID]]:
        return [await self.lane(lane, queue) for lane in ("high", "normal", "low")]

    async def all_rows(self) -> dict[str, list[str]]:
        """All rows of all tables: a refused call must not change them."""
        names = await self.sql.fetch(
            "select format('%I.%I', relnamespace::regnamespace, relname) as name from pg_class"
            " where relkind in ('r', 'p') and not relispartition"
            " and relnamespace in ('treadle'::regnamespace, 'pgmq'::regnamespace)"
        )
        return {
            row["name"]: [r[0] for r in await self.sql.fetch(f"select t::text from {row['name']} t order by 1")]
            for row in names
        }
