"""Threads in PostgreSQL."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from service.db.pool import Database
from service.errors import NotFound
from service.threads.model import States, Thread, ThreadSummary

TENANT = "default"
DELETIONS = 2  # at once: each holds a connection, and may wait for a lock


class Turn(msgspec.Struct, frozen=True):
    """A finished message of a thread: what was asked and what was answered."""

    message: Any
    result: Any


class ThreadStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._deletions = asyncio.Semaphore(DELETIONS)

    async def newest(
        self, limit: int, before: tuple[datetime, int] | None
    ) -> tuple[list[ThreadSummary], tuple[datetime, int] | None]:
        """A page of threads, the last active first, and where the next page begins (None: nowhere)."""
        rows = await self._database.fetch(
            "select * from treadle.thread_overview t where t.tenant = $1"
            " and ($2::timestamptz is null or (t.last_activity, t.thread) < ($2, $3))"
            " order by t.last_activity desc, t.thread desc limit $4",
            TENANT,
            *(before or (None, None)),
            limit + 1,
        )
        page = rows[:limit]
        following = (page[-1]["last_activity"], page[-1]["thread"]) if len(rows) > limit else None
        return msgspec.convert(page, list[ThreadSummary]), following

    async def get(self, thread_id: str) -> Thread:
        """Raises NotFound."""
        row = await self._database.fetchrow(
            "select * from treadle.thread_overview t where t.tenant = $1 and t.thread_id = $2", TENANT, thread_id
        )
        if row is None:
            raise _unknown(thread_id)
        return Thread(
            row["thread_id"],
            row["message_count"],
            row["created_at"],
            row["last_activity"],
            msgspec.convert(row, States),
            row["metadata"],
        )

    async def key(self, thread_id: str) -> tuple[int, int]:
        """The thread's surrogate key and its number of messages; raises NotFound."""
        row = await self._database.fetchrow(
            "select id, last_ord from treadle.threads t where t.tenant = $1 and t.thread_id = $2", TENANT, thread_id
        )
        if row is None:
            raise _unknown(thread_id)
        return row["id"], row["last_ord"]

    async def logs(self, thread_ids: Sequence[str]) -> list[tuple[int, int] | None]:
        """For each thread its surrogate key and the last thread_pos of its log; None where there is no such thread."""
        rows = await self._database.fetch(
            "select t.id, coalesce(l.last_pos, 0) as last from unnest($1::text[]) with ordinality u (thread_id, n)"
            " left join treadle.threads t on t.tenant = $2 and t.thread_id = u.thread_id"
            " left join treadle.thread_log l on l.thread = t.id order by u.n",
            thread_ids,
            TENANT,
        )
        return [None if row["id"] is None else (row["id"], row["last"]) for row in rows]

    async def delete(self, thread_id: str) -> int:
        """Delete it with its messages and events; returns how many messages went. Raises NotFound, Busy."""
        async with self._deletions:
            gone = await self._database.fetchval(
                "select treadle.delete_thread($1, $2)", thread_id, TENANT, repeatable=False
            )
        return int(gone)

    async def turns(self, thread: int, before: int, limit: int) -> list[Turn]:
        """The last `limit` completed messages of a thread before the one with ord `before`, oldest first."""
        rows = await self._database.fetch(
            "select m.body as message, m.result from treadle.messages m"
            " where m.thread = $1 and m.ord < $2 and m.state = 'completed' order by m.ord desc limit $3",
            thread,
            before,
            limit,
        )
        return msgspec.convert(rows[::-1], list[Turn])


def _unknown(thread_id: str) -> NotFound:
    return NotFound(f"There is no thread {thread_id!r}.")
