"""Reads the status of messages in PostgreSQL."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import NotFound
from service.limits import JSON_PAGE_BYTES, MAX_POSITION
from service.messages.model import Explanation, Reason, Status

STATUS_COLUMNS = """
    o.message_id, o.state, o.user_message::text, o.priority, o.created_at, o.started_at, o.completed_at,
    o.result::text, o.error, o.thread_id, o.agent, o.attempt, o.max_attempts, o.run_at, o.worker_id, o.metadata::text,
    o.queue, o.hold, o.usage::text, o.aside, o.parent,
    case when o.asks is not null then
        jsonb_build_object('name', o.asks -> 'name', 'question', o.asks -> 'question')::text
    end as asks"""
JSON_COLUMNS = frozenset({"user_message", "result", "metadata", "usage", "asks"})

STATUS = f"""
    select
        {STATUS_COLUMNS},
        case when o.state = 'queued' then treadle.queue_position(o.message_id, tenant => $2) end as queue_position
    from treadle.message_overview o
    where o.message_id = $1
        and o.tenant = $2
        and treadle._sees(
            reach => $3::jsonb, owner => o.owner, agent => o.agent, thread_id => o.thread_id,
            message_id => o.message_id)"""

STATUSES = f"""
    select {STATUS_COLUMNS}
    from (
        select f.*, row_number() over by_n as place, sum(
            treadle._bytes(f.user_message) + treadle._bytes(f.result) + treadle._bytes(f.metadata)
            + treadle._bytes(f.usage) + treadle._bytes(f.asks) + coalesce(octet_length(f.error), 0)) over by_n as bytes
        from (
            select m.*, u.n
            from unnest($1::uuid[]) with ordinality u (message_id, n)
            cross join lateral (
                select v.*
                from treadle.message_overview v
                where v.message_id = u.message_id
                    and v.tenant = $2
                    and treadle._sees(
                        reach => $3::jsonb, owner => v.owner, agent => v.agent, thread_id => v.thread_id,
                        message_id => v.message_id)
                limit 1
            ) m
        ) f
        window by_n as (order by f.n rows unbounded preceding)
    ) o
    where o.place = 1 or o.bytes <= $4
    order by o.n"""


def _page_of_thread(beyond: str, order: str) -> str:
    """A page of messages that have about so many bytes together. The sizes are known without reading the values."""
    return f"""
    select {STATUS_COLUMNS}, o.ord, o.more
    from (
        select s.*, s.place < count(*) over () as more
        from (
            select m.*, row_number() over by_ord as place, sum(
                treadle._bytes(m.user_message) + treadle._bytes(m.result) + treadle._bytes(m.metadata)
                + treadle._bytes(m.usage) + treadle._bytes(m.asks) + coalesce(octet_length(m.error), 0)) over by_ord
                as bytes
            from (
                select v.*
                from treadle.message_overview v
                where v.thread = $1
                    and v.ord {beyond} $2
                order by v.ord {order}
                limit $3 + 1
            ) m
            window by_ord as (order by m.ord {order} rows unbounded preceding)
        ) s
    ) o
    where o.place = 1 or (o.place <= $3 and o.bytes <= $4)
    order by o.ord {order}"""


OF_THREAD = _page_of_thread(">", "asc")
OF_THREAD_NEWEST = _page_of_thread("<", "desc")


class MessageLookup:
    """`reads` and `lists` are pools of their own, so that slow lookups and lists do not delay other calls."""

    def __init__(self, reads: Database, lists: Database) -> None:
        self._reads = reads
        self._lists = lists

    async def status(self, principal: Principal, message_id: UUID) -> Status:
        """Raises NotFound."""
        row = await self._reads.fetchrow(STATUS, message_id, principal.tenant, principal.reach)
        if row is None:
            raise NotFound(f"There is no message {message_id}.")
        return from_row(Status, row, JSON_COLUMNS)

    async def statuses(self, principal: Principal, message_ids: Sequence[UUID]) -> list[Status]:
        """Of those that exist for the principal, in this order and without their queue positions: the first that have
        about JSON_PAGE_BYTES bytes together, but at least one."""
        rows = await self._lists.fetch(STATUSES, message_ids, principal.tenant, principal.reach, JSON_PAGE_BYTES)
        return [from_row(Status, row, JSON_COLUMNS, queue_position=None) for row in rows]

    async def explain(self, principal: Principal, message_id: UUID) -> Explanation:
        """Raises NotFound."""
        rows = await self._reads.fetch(
            "select cause, sentence, advice from treadle.explain($1, tenant => $2, reach => $3::jsonb)",
            message_id,
            principal.tenant,
            principal.reach,
        )
        return Explanation(message_id, msgspec.convert(rows, list[Reason]))

    async def of_thread(
        self, thread: int, after: int | None, limit: int, *, newest_first: bool = False
    ) -> tuple[list[Status], int | None]:
        """A page of the messages of a thread, which the caller has looked up for its principal, in its order (or the
        reverse), beginning after the one with the `ord` `after`; and the `ord` of the last where more messages follow.
        It has at most `limit` messages and about JSON_PAGE_BYTES bytes, but at least one message."""
        query, start = (OF_THREAD_NEWEST, MAX_POSITION) if newest_first else (OF_THREAD, 0)
        rows = await self._lists.fetch(query, thread, start if after is None else after, limit, JSON_PAGE_BYTES)
        queued = [row["message_id"] for row in rows if row["state"] == "queued"]
        positions = dict(zip(queued, await self._positions(queued) if queued else [], strict=True))
        page = [from_row(Status, row, JSON_COLUMNS, queue_position=positions.get(row["message_id"])) for row in rows]
        return page, rows[-1]["ord"] if rows and rows[-1]["more"] else None

    async def _positions(self, message_ids: Sequence[UUID]) -> list[int | None]:
        rows = await self._lists.fetch("select queue_position from treadle.queue_positions($1) order by n", message_ids)
        return [row["queue_position"] for row in rows]
