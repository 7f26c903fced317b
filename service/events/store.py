"""The event log in PostgreSQL: one query serves many readers."""

from collections.abc import Sequence
from uuid import UUID

from asyncpg import Record

from service.db.pool import Database
from service.events.model import Cursor, Entry, QueuePosition
from service.limits import STREAM_PAGE_CHARS, STREAM_PAGE_EVENTS

READ = """
    select n, message_id, seq, pos, type, data, created_at, last
    from treadle.read_events(message_ids => $1, threads => $2, afters => $3, quantity => $4)"""


class EventStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, cursors: Sequence[Cursor], quantity: int = STREAM_PAGE_EVENTS) -> list[list[Entry] | None]:
        """For each cursor at most `quantity` events that follow; None if the message or the thread does not exist."""
        rows = await self._database.fetch(
            READ,
            [cursor.log if isinstance(cursor.log, UUID) else None for cursor in cursors],
            [cursor.log if isinstance(cursor.log, int) else None for cursor in cursors],
            [cursor.after for cursor in cursors],
            quantity,
        )
        return _by_reader(rows, len(cursors))

    async def log_end(self, message_id: UUID) -> tuple[int, bool] | None:
        """The seq of a message's last event so far, and whether the message is over; None if it does not exist."""
        row = await self._database.fetchrow("select last_seq, over from treadle.log_end($1)", message_id)
        return None if row is None else (row["last_seq"], row["over"])

    async def queue_positions(self, message_ids: Sequence[UUID]) -> list[QueuePosition]:
        """For each message, in this order."""
        rows = await self._database.fetch(
            "select state, queue_position from treadle.queue_positions($1) order by n", message_ids
        )
        return [QueuePosition(row["state"], row["queue_position"]) for row in rows]


def is_full(entries: Sequence[Entry]) -> bool:
    """Whether a limit ended the page, so that more events may be there already."""
    return len(entries) >= STREAM_PAGE_EVENTS or sum(len(entry.data) for entry in entries) >= STREAM_PAGE_CHARS


def _by_reader(rows: Sequence[Record], readers: int) -> list[list[Entry] | None]:
    pages: list[list[Entry] | None] = [[] for _ in range(readers)]
    for row in rows:
        n, message_id, seq, cursor, type, data, created_at, last = row
        if type is None:
            pages[n - 1] = None
        elif (page := pages[n - 1]) is not None:
            page.append(Entry(message_id, seq, cursor, type, data, created_at, last))
    return pages
