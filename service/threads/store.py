"""Threads in PostgreSQL."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from service.db.pool import DELETION_TIMEOUT_SECONDS, Database
from service.errors import NotFound
from service.threads.model import States, Thread, ThreadSummary, Usage

TENANT = "default"
PROGRESS = 50  # of a message's last progress events are looked at
EMPTY = "'[]'::jsonb"
TOOLS = (
    "(select coalesce(jsonb_agg(e.data order by e.seq), '[]') from treadle.events e"
    " where e.message_id = m.message_id and e.type = 'tool' and e.seq > (select max(s.seq) from treadle.events s"
    "   where s.message_id = m.message_id and s.type = 'started'))"
)
DELETIONS = 2  # at once: each holds a connection, and may wait for a lock


class Exchange(msgspec.Struct, frozen=True):
    """A finished message of a thread: what was asked, what was answered, and the data of its `tool` events."""

    message: Any
    result: Any
    tools: list[Any] = []


class UnderWay(msgspec.Struct, frozen=True):
    """The message whose turn it is in a thread, with what it has put into its log so far."""

    message_id: UUID
    agent: str
    message: Any
    steps: dict[str, Any]
    progress: list[Any]


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
            row["memory"],
        )

    async def usage(self, thread_id: str) -> Usage:
        """Raises NotFound."""
        thread, _ = await self.key(thread_id)
        row = await self._database.fetchrow(
            "select count(distinct m.message_id) as messages,"
            " (select coalesce(jsonb_object_agg(s.key, s.total), '{}') from ("
            "   select u.key, sum(u.value::numeric) as total from treadle.messages n, jsonb_each(n.usage) u"
            "   where n.thread = $1 and jsonb_typeof(u.value) = 'number' group by u.key) s) as usage"
            " from treadle.messages m where m.thread = $1 and m.usage is not null",
            thread,
        )
        assert row is not None
        return Usage(thread_id, row["messages"], row["usage"])

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

    async def agent_while_busy(self, thread_id: str, agent: str | None) -> str | None:
        """The agent that answers at once what is said to `agent` (None: to nobody in particular): the one at work in
        the thread names it. None where none does, and where somebody else is meant."""
        found = await self._database.fetchval(
            "select other.agent from treadle.threads t"
            " join treadle.messages m on m.message_id = t.turn and (m.state = 'processing' or m.attempt > 0)"
            " join treadle.agents a on a.agent = m.agent"
            " join treadle.agents other on other.agent = a.settings ->> 'while_busy'"
            " where t.tenant = $1 and t.thread_id = $2 and ($3::text is null or $3 in (a.agent, other.agent))",
            TENANT,
            thread_id,
            agent,
        )
        return None if found is None else str(found)

    async def delete(self, thread_id: str) -> int:
        """Delete it with its messages and events; returns how many messages went. Raises NotFound, Busy."""
        async with self._deletions:
            gone = await self._database.fetchval(
                "select treadle.delete_thread($1, $2)",
                thread_id,
                TENANT,
                repeatable=False,
                timeout=DELETION_TIMEOUT_SECONDS,
            )
        return int(gone)

    async def exchanges(self, thread: int, before: int, limit: int, tools: bool) -> list[Exchange]:
        """The last `limit` completed messages of a thread before the one with ord `before`, oldest first."""
        rows = await self._database.fetch(
            f"select m.body as message, m.result, {TOOLS if tools else EMPTY} as tools from treadle.messages m"
            " where m.thread = $1 and m.ord < $2 and m.state = 'completed' order by m.ord desc limit $3",
            thread,
            before,
            limit,
        )
        return msgspec.convert(rows[::-1], list[Exchange])

    async def under_way(self, thread: int) -> UnderWay | None:
        """None where it is nobody's turn."""
        row = await self._database.fetchrow(
            "select m.message_id, m.agent, m.body as message, "
            " (select coalesce(jsonb_object_agg(e.data ->> 'name', e.data -> 'result'), '{}') from treadle.events e"
            "   where e.message_id = m.message_id and e.type = 'step') as steps,"
            " (select coalesce(jsonb_agg(p.data order by p.seq), '[]') from (select e.seq, e.data from treadle.events e"
            "   where e.message_id = m.message_id and e.type = 'progress' order by e.seq desc limit $2) p) as progress"
            " from treadle.threads t join treadle.messages m on m.message_id = t.turn where t.id = $1",
            thread,
            PROGRESS,
        )
        return None if row is None else msgspec.convert(row, UnderWay)


def _unknown(thread_id: str) -> NotFound:
    return NotFound(f"There is no thread {thread_id!r}.")
