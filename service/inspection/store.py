"""Messages in PostgreSQL, as a person looks for them and at them."""

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.batching import SharedReads
from service.db.fair import tenant_of_request
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import Busy, Conflict, NotFound
from service.inspection.history import Milestone, read_history
from service.inspection.model import Changes, Descendant, EventCount, Message, MessagePage, MessageSummary
from service.limits import JSON_PAGE_BYTES
from service.messages.model import Status

SHOWN_ERROR_CHARS = 500
LIST_LOOKS = 1_000  # messages that a call of a list looks at: what it costs among any number of them
MANY_LOOKS = 10_000  # the same where a person waits for all
SUMMARIES = f"""
    select s.message_id, s.state, s.hold, s.agent, s.queue, s.priority, s.thread_id, s.parent, s.user_message::text,
        s.error, s.attempt, s.max_attempts, s.created_at, s.started_at, s.completed_at, s.run_at, s.worker_id,
        s.usage::text,
        sum(400 + octet_length(s.user_message::text) + coalesce(octet_length(s.error), 0)
            + coalesce(octet_length(s.usage::text), 0)) over (order by u.n rows unbounded preceding) as bytes
    from unnest($1::uuid[]) with ordinality u (message_id, n)
    cross join lateral (
        select
            o.message_id, o.state, o.hold, o.agent, o.queue, o.priority, o.thread_id, o.parent,
            treadle._preview(o.user_message) as user_message, left(o.error, {SHOWN_ERROR_CHARS}) as error, o.attempt,
            o.max_attempts, o.created_at, o.started_at, o.completed_at, o.run_at, o.worker_id, o.usage
        from treadle.message_overview o
        where o.message_id = u.message_id
        limit 1
    ) s
    order by u.n"""
LAST_ID = UUID(int=2**128 - 1)


class Found(NamedTuple):
    """Ids of messages, and where to go on (None: there are no others)."""

    message_ids: list[UUID]
    next_before: UUID | None


class Asked(NamedTuple):
    """A page of a list."""

    tenant: str
    reach: str | None
    wanted: tuple[tuple[str, str], ...]
    before: UUID | None
    limit: int
    looks: int


class InspectionStore:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._pages = SharedReads(self._read_page, calls=3)

    async def find(
        self, principal: Principal, wanted: dict[str, str], *, before: UUID | None, limit: int, looks: int = MANY_LOOKS
    ) -> Found:
        """Messages that satisfy a filter (sql/89_find_messages.sql), the newest first, of the next `looks` messages."""
        asked = Asked(principal.tenant, principal.reach, tuple(wanted.items()), before, limit, looks)
        return await self._find(asked)

    async def _find(self, asked: Asked) -> Found:
        row = await self._database.fetchrow(
            "select message_ids, next_before from treadle.find_messages("
            "filter => $1::jsonb, before => $2, quantity => $3, tenant => $4, reach => $5::jsonb, rows => $6)",
            msgspec.json.encode(dict(asked.wanted)).decode(),
            asked.before,
            asked.limit,
            asked.tenant,
            asked.reach,
            asked.looks,
        )
        assert row is not None
        return Found(row["message_ids"], row["next_before"])

    async def page(
        self,
        principal: Principal,
        wanted: dict[str, str],
        *,
        before: UUID | None,
        limit: int,
        looks: int = LIST_LOOKS,
    ) -> MessagePage:
        """At most `limit` messages that have about JSON_PAGE_BYTES bytes, but at least one."""
        asked = Asked(principal.tenant, principal.reach, tuple(wanted.items()), before, limit, looks)
        return await self._pages.ask(asked)

    async def _read_page(self, asked: Asked) -> MessagePage:
        tenant_of_request.set(asked.tenant)
        found = await self._find(asked)
        rows = await self._database.fetch(SUMMARIES, found.message_ids) if found.message_ids else []
        fitting = [row for number, row in enumerate(rows) if number == 0 or row["bytes"] <= JSON_PAGE_BYTES]
        following = found.next_before if len(fitting) == len(rows) else fitting[-1]["message_id"]
        return MessagePage(
            [from_row(MessageSummary, row, ("user_message", "usage")) for row in fitting],
            *_cursor(following),
        )

    async def message(self, principal: Principal, status: Status) -> Message:
        """The parts of a message, whose status the caller has looked up for its principal."""
        message_id = status.message_id
        counts = await self._database.fetch(
            "select type, events, first_at, last_at, last_seq, log_end from treadle.count_events($1)", message_id
        )
        rows = await self._database.fetch(
            "select seq, type, data::text, created_at from treadle.milestones($1)", message_id
        )
        descendants = await self._database.fetch(
            "select d.message_id, d.parent, d.depth, d.agent, d.state, d.hold, d.created_at, d.started_at,"
            " d.completed_at, d.error, d.usage::text"
            " from treadle.descendants($1, tenant => $2, reach => $3::jsonb) d",
            message_id,
            principal.tenant,
            principal.reach,
        )
        milestones = [
            Milestone(row["seq"], row["type"], msgspec.json.decode(row["data"] or "{}"), row["created_at"])
            for row in rows
        ]
        attempts, marks = read_history(milestones)
        seen = max((row["last_seq"] for row in counts), default=0)
        traceback, callback_url = await self._traceback_and_callback(principal, status)
        return Message(
            status=status,
            attempts=attempts,
            marks=marks,
            descendants=[from_row(Descendant, row, ("usage",)) for row in descendants],
            events=[from_row(EventCount, row) for row in counts],
            complete=all(row["log_end"] <= seen for row in counts),
            traceback=traceback,
            callback_url=callback_url,
        )

    async def _traceback_and_callback(self, principal: Principal, status: Status) -> tuple[str | None, str | None]:
        """The traceback of a failure, and the address of the callback: who knows the address can write to it, so that
        only those who operate the tenant see it."""
        failed = status.state == "failed"
        shown = principal.operates_tenant
        if not failed and not shown:
            return None, None
        row = await self._database.fetchrow(
            "select case when $2 then treadle.traceback(m.message_id) end, case when $3 then m.callback_url end"
            " from treadle.message_overview m where m.message_id = $1",
            status.message_id,
            failed,
            shown,
        )
        return (None, None) if row is None else tuple(row)

    async def change(
        self,
        principal: Principal,
        wanted: dict[str, str],
        change: Callable[[Principal, UUID], Coroutine[Any, Any, Any]] | None,
        *,
        before: UUID | None,
        limit: int,
    ) -> Changes:
        """Change the next messages that satisfy a filter, one after the other; `change` None: only count them."""
        found = await self.find(principal, wanted, before=before, limit=limit, looks=MANY_LOOKS)
        changed = skipped = 0
        if change is None:
            return Changes(len(found.message_ids), 0, 0, *_cursor(found.next_before))
        for message_id in found.message_ids:
            try:
                await change(principal, message_id)
                changed += 1
            except (Busy, Conflict, NotFound):
                skipped += 1
        return Changes(len(found.message_ids), changed, skipped, *_cursor(found.next_before))


def _cursor(before: UUID | None) -> tuple[str | None, datetime | None]:
    """The cursor of the next page, and how far the search has come."""
    if before is None:
        return None, None
    return str(before), datetime.fromtimestamp((before.int >> 80) / 1000, UTC)
