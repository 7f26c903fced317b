"""Threads as the dialect shows them: one by its id, and those that a search finds."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.db.pool import Database
from service.errors import NotFound, Unprocessable
from service.json_input import readable_object
from service.limits import MAX_FILTER_BYTES, MAX_FILTER_VALUES
from service.protocols.langgraph.model import Json, ThreadSearch

MAX_SEARCH_BYTES = 16_000_000  # of the threads of one answer, with their values; one alone may have more
SEARCHED_THREADS = 2_000  # that one search looks at, the most recently active ones

_STATUS = """
    case
        when exists (
            select from treadle.message_overview w where w.message_id = t.turn and w.hold = 'input') then 'interrupted'
        when t.queued + t.processing > 0 then 'busy'
        when 'failed' = (
            select l.state from treadle.message_overview l where l.thread = t.thread and not l.aside
            order by l.ord desc limit 1) then 'error'
        else 'idle'
    end"""
_FOUND_COLUMNS = f"t.thread, t.thread_id, t.created_at, t.last_activity as updated_at, {_STATUS} as status"
_COLUMNS_OF_THREAD = f"{_FOUND_COLUMNS}, t.metadata::text, t.memory::text, t.turn"
_SEES = "treadle._sees_thread(reach => $2::jsonb, owner => t.owner, agents => t.agents, thread_id => t.thread_id)"
_THREAD = f"""
    select {_COLUMNS_OF_THREAD}
    from treadle.thread_overview t
    where t.tenant = $1 and t.thread_id = $3 and {_SEES}"""
# The threads that a search looks at: those with the given ids, or the most recently active ones.
_OF_IDS = "select o.* from treadle.thread_overview o where o.tenant = $1 and o.thread_id = any($3::text[])"
_NEWEST = f"""
    select o.*
    from treadle.thread_overview o
    where o.tenant = $1 and $3::text[] is null
    order by o.last_activity desc, o.thread desc
    limit {SEARCHED_THREADS}"""
# Of a search: the threads of its page in their order, up to the first one with which they have too many bytes.
_PAGE = """
    select s.*
    from (
        select b.*, (sum(b.bytes) over (order by b.place))::bigint as total_bytes
        from (
            select p.*, o.metadata, o.memory, o.turn,
                octet_length(o.metadata) + coalesce(octet_length(o.memory), 0) as bytes
            from (
                select r.*, row_number() over (order by {order}) as place
                from ({found}) r
                order by place
                limit $6 offset $7
            ) p
            cross join lateral (
                select v.metadata::text, v.memory::text, v.turn
                from treadle.thread_overview v
                where v.thread = p.thread
            ) o
        ) b
    ) s
    where s.total_bytes - s.bytes <= $8
    order by s.place"""
_FOUND = """
    select f.*
    from (
        select {columns}
        from ({looked_at}) t
        where {sees} and t.thread_id not like 'records/%' and ($4::jsonb is null or t.metadata @> $4)
    ) f
    where ($5::text is null or f.status = $5)"""
_SORTED = {
    None: "updated_at",
    "updated_at": "updated_at",
    "state_updated_at": "updated_at",
    "created_at": "created_at",
    "thread_id": "thread_id",
    "status": "status",
}


class ThreadRow(msgspec.Struct, frozen=True):
    thread: int
    thread_id: str
    created_at: Any
    updated_at: Any
    status: str
    turn: UUID | None
    metadata: Json
    memory: Json


class ThreadLookup:
    """`reads` and `lists` are pools of their own, so that slow lookups and lists do not delay other calls."""

    def __init__(self, reads: Database, lists: Database) -> None:
        self._reads = reads
        self._lists = lists

    async def thread(self, principal: Principal, thread_id: str) -> ThreadRow:
        """Raises NotFound."""
        row = await self._reads.fetchrow(_THREAD, principal.tenant, principal.reach, thread_id)
        if row is None:
            raise NotFound(f"There is no thread {thread_id[:100]!r}.")
        return _thread(row)

    async def threads(self, principal: Principal, wanted: ThreadSearch) -> list[ThreadRow]:
        """Raises Unprocessable where several have more bytes together than an answer may have."""
        order = "asc" if wanted.sort_order == "asc" else "desc"
        rows = await self._lists.fetch(
            _PAGE.format(found=_found(wanted), order=f"r.{_SORTED[wanted.sort_by]} {order}, r.thread {order}"),
            *_filter(principal, wanted),
            wanted.limit or 10,
            wanted.offset or 0,
            MAX_SEARCH_BYTES,
        )
        check_size(len(rows), rows[-1]["total_bytes"] if rows else 0)
        return [_thread(row) for row in rows]

    async def count_threads(self, principal: Principal, wanted: ThreadSearch) -> int:
        count = f"select count(*) from ({_found(wanted)}) c"
        return int(await self._lists.fetchval(count, *_filter(principal, wanted)))


def check_size(threads: int, size_bytes: int) -> None:
    """Raises Unprocessable where so many threads have too many bytes for one answer."""
    if threads > 1 and size_bytes > MAX_SEARCH_BYTES:
        raise Unprocessable(
            f"The threads that the search finds have more than {MAX_SEARCH_BYTES} bytes: ask for fewer (limit)."
        )


def _found(wanted: ThreadSearch) -> str:
    looked_at = _NEWEST if wanted.ids is None else _OF_IDS
    return _FOUND.format(columns=_FOUND_COLUMNS, looked_at=looked_at, sees=_SEES)


def _filter(principal: Principal, wanted: ThreadSearch) -> Sequence[Any]:
    """Raises Unprocessable for metadata that take too long to be compared with those of a thousand threads."""
    metadata = None if not wanted.metadata else _text(wanted.metadata)
    if metadata is not None and len(metadata.encode()) > MAX_FILTER_BYTES:
        raise Unprocessable(f"metadata must have at most {MAX_FILTER_BYTES} bytes in a search.")
    if _array_values(wanted.metadata) > MAX_FILTER_VALUES:
        raise Unprocessable(
            f"metadata must have at most {MAX_FILTER_VALUES} values in its arrays together in a search."
        )
    return principal.tenant, principal.reach, wanted.ids, metadata, wanted.status


def _array_values(value: Any) -> int:
    """How many values all arrays in it have together."""
    if isinstance(value, list):
        return len(value) + sum(map(_array_values, value))
    return sum(map(_array_values, value.values())) if isinstance(value, dict) else 0


def _text(value: Json) -> str:
    return msgspec.json.encode(value).decode()


def _thread(row: Any) -> ThreadRow:
    values = {name: row[name] for name in ("thread", "thread_id", "created_at", "updated_at", "status", "turn")}
    return ThreadRow(**values, metadata=readable_object(row["metadata"]), memory=readable_object(row["memory"]))
