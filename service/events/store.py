"""The event log in PostgreSQL: many readers, one query."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from asyncpg import Record

from service.db.pool import Database
from service.events.model import Entry
from service.limits import STREAM_PAGE_CHARS, STREAM_PAGE_EVENTS

Gone = None  # the answer for a reader whose message or thread is not there (any more)


class EventStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read_messages(
        self, cursors: Sequence[tuple[UUID, int]], quantity: int = STREAM_PAGE_EVENTS
    ) -> list[list[Entry] | None]:
        """For each (message_id, last seq seen): what follows; None where there is no such message."""
        rows = await self._database.fetch(
            "select n, message_id, seq, seq as position, type, data, created_at, last"
            " from treadle.read_events($1, $2, $3)",
            [key for key, _ in cursors],
            [after for _, after in cursors],
            quantity,
        )
        return _by_reader(rows, len(cursors))

    async def read_threads(
        self, cursors: Sequence[tuple[int, int]], quantity: int = STREAM_PAGE_EVENTS
    ) -> list[list[Entry] | None]:
        """For each (threads.id, last thread_pos seen): what follows; None where there is no such thread."""
        rows = await self._database.fetch(
            "select n, message_id, seq, thread_pos as position, type, data, created_at, false as last"
            " from treadle.read_thread_events($1, $2, $3)",
            [key for key, _ in cursors],
            [after for _, after in cursors],
            quantity,
        )
        return _by_reader(rows, len(cursors))

    async def end(self, message_id: UUID) -> tuple[int, bool] | None:
        """The seq of a message's last event so far, and whether the message is over; None where there is none."""
        row = await self._database.fetchrow(
            "select coalesce(l.last_seq, m.last_seq) as seq, m.state in ('completed', 'failed', 'cancelled') as over"
            " from treadle.messages m left join treadle.leases l using (message_id) where m.message_id = $1",
            message_id,
        )
        return None if row is None else (row["seq"], row["over"])

    async def positions(self, ids: Sequence[UUID]) -> list[tuple[str, int | None]]:
        """Where messages stand: state and queue position."""
        rows = await self._database.fetch(
            "select m.state, treadle.queue_position(m.message_id) as position"
            " from unnest($1::uuid[]) with ordinality u (id, n)"
            " left join treadle.messages m on m.message_id = u.id order by u.n",
            ids,
        )
        return [(row["state"], row["position"]) for row in rows]


def is_full(entries: Sequence[Entry]) -> bool:
    """Whether the page ended for want of room, so that there may be more at once."""
    return len(entries) >= STREAM_PAGE_EVENTS or sum(len(entry.data) for entry in entries) >= STREAM_PAGE_CHARS


def _by_reader(rows: Sequence[Record], readers: int) -> list[list[Entry] | None]:
    read: list[list[Entry] | None] = [[] for _ in range(readers)]
    for row in rows:
        n: Any = row["n"] - 1
        entries = read[n]
        if row["type"] is None:
            read[n] = Gone
        elif entries is not None:
            entries.append(
                Entry(
                    row["message_id"],
                    row["seq"],
                    row["position"],
                    row["type"],
                    row["data"],
                    row["created_at"],
                    row["last"],
                )
            )
    return read
