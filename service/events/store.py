"""The event log in PostgreSQL: one query serves many readers."""

import itertools
import operator
from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
from asyncpg import Record

from service.access.principal import Principal
from service.db.arrays import array
from service.db.pool import Database
from service.events.lines import Claimed, Line, LinePosition, QueueLines
from service.events.model import Cursor, Entry, Page, QueuePosition
from service.limits import STREAM_PAGE_BYTES, STREAM_PAGE_EVENTS

READ = """
    select n, message_id, seq, pos, type, data, created_at, last, more
    from treadle.read_events(
        message_ids => $1::text::uuid[], threads => $2::text::bigint[], afters => $3::text::bigint[], quantity => $4,
        page_bytes => $5, at_least_one => $6)"""

GROWN = """
    select n
    from treadle.grown_logs(
        message_ids => $1::text::uuid[], threads => $2::text::bigint[], afters => $3::text::bigint[])"""

READ_SEEN = """
    select n, $1::uuid as message_id, seq, pos, type, data, created_at, last, more
    from treadle.read_log($1, tenant => $2, reach => $3::jsonb, after => $4, quantity => $5, page_bytes => $6)"""


class EventStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self,
        cursors: Sequence[Cursor],
        quantity: int = STREAM_PAGE_EVENTS,
        page_bytes: int = STREAM_PAGE_BYTES,
        *,
        at_least_one: bool = True,
    ) -> list[Page | None]:
        """For each cursor a page of at most `quantity` events and `page_bytes` bytes of data, but `at_least_one` event
        if there is one; None if the message or the thread does not exist."""
        rows = await self._database.fetch(READ, *_columns(cursors), quantity, page_bytes, at_least_one)
        return _by_reader(rows, len(cursors))

    async def grown(self, cursors: Sequence[Cursor]) -> list[int]:
        """The places in `cursors` of those whose log does not end there: `read` has something to say about them."""
        rows = await self._database.fetch(GROWN, *_columns(cursors))
        return [row["n"] - 1 for row in rows]

    async def page(
        self,
        principal: Principal,
        message_id: UUID,
        after: int,
        quantity: int = STREAM_PAGE_EVENTS,
        page_bytes: int = STREAM_PAGE_BYTES,
    ) -> Page | None:
        """A page of the log of a message, as `read` reads it; None if there is no such message for the principal."""
        rows = await self._database.fetch(
            READ_SEEN, message_id, principal.tenant, principal.reach, after, quantity, page_bytes
        )
        if not rows:
            return None
        return Page([]) if rows[0]["n"] is None else _page(rows)

    async def log_end(self, principal: Principal, message_id: UUID) -> tuple[int, bool] | None:
        """The seq of a message's last event so far, and whether the message is over; None if there is no such message
        for the principal."""
        row = await self._database.fetchrow(
            "select last_seq, over from treadle.log_end($1, tenant => $2, reach => $3::jsonb)",
            message_id,
            principal.tenant,
            principal.reach,
        )
        return None if row is None else (row["last_seq"], row["over"])

    async def message_places(self, message_ids: Sequence[UUID]) -> list[LinePosition | None]:
        """For each message, in this order; None for one that does not exist."""
        rows = await self._database.fetch(
            "select state, queue_position, reason, queue, tenant, agent, lane_rank, lane_id, thread, place"
            " from treadle.message_places($1) order by n",
            message_ids,
        )
        return [
            None if state is None else LinePosition(QueuePosition(state, position, reason), *place)
            for state, position, reason, *place in rows
        ]

    async def queue_lines(self, queues: Collection[str]) -> dict[str, QueueLines]:
        rows = await self._database.fetch(
            "select queue, paused, stopped, claimed, ids, last_id from treadle.queue_lines($1)", list(queues)
        )
        found: dict[str, QueueLines] = {}
        for queue, paused, stopped, claimed, ids, last_id in rows:  # by their rank
            if queue not in found:
                found[queue] = QueueLines(paused, frozenset(stopped), msgspec.convert(claimed, list[Claimed]), [])
            found[queue].lanes.append(Line(ids, last_id))
        return found

    async def thread_lines(self, threads: Collection[int]) -> dict[int, list[int]]:
        """The places behind the turn of each thread."""
        rows = await self._database.fetch("select thread, places from treadle.thread_lines($1)", list(threads))
        return {row["thread"]: row["places"] for row in rows}


def _columns(cursors: Sequence[Cursor]) -> tuple[str | None, str | None, str]:
    """Message ids, threads and places of readers; None: no reader has one."""
    threads = [cursor.log if isinstance(cursor.log, int) else "null" for cursor in cursors]
    message_ids = ["null" if isinstance(cursor.log, int) else cursor.log for cursor in cursors]
    return (
        array(message_ids) if "null" in threads else None,
        array(threads) if "null" in message_ids else None,
        array([cursor.after for cursor in cursors]),
    )


def _by_reader(rows: Sequence[Record], readers: int) -> list[Page | None]:
    pages: list[Page | None] = [Page([])] * readers
    for n, of_reader in itertools.groupby(rows, key=operator.itemgetter("n")):
        pages[n - 1] = _page(list(of_reader))
    return pages


def _page(rows: list[Record]) -> Page | None:
    last = rows[-1]
    if last["type"] is not None:
        return Page([_entry(row) for row in rows], more=last["more"])
    if last["pos"] is None:
        return None
    return Page([], more=last["more"], ends_before=None if last["more"] else last["pos"])


def _entry(row: Record) -> Entry:
    _, message_id, seq, cursor, type, data, created_at, last, _ = row
    return Entry(message_id, seq, cursor, type, data, created_at, last)
