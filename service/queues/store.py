"""Queues, agents and workers, in PostgreSQL."""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.access.principal import Principal
from service.batching import SharedReads
from service.cursors import NamedPosition
from service.db.fair import tenant_of_request
from service.db.pages import read_all, read_page
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import NotFound
from service.limits import JSON_PAGE_BYTES
from service.queues.model import Agent, DeadLetter, Instance, Overview, Processing, Queue, Waiting, Worker

OVERVIEW_MESSAGES = 100  # in each of the two lists of an overview

# Each message is looked up by its key, and `limit` keeps it so: a join that is planned while there are few messages
# would read the whole table, also when it is large.
QUEUED = """
    select m.*
    from treadle.queued_messages($1, $2, $3::jsonb) with ordinality q (message_id, n)
    cross join lateral (
        select o.message_id as id, o.priority, o.created_at, treadle._preview(o.user_message)::text as user_message
        from treadle.message_overview o
        where o.message_id = q.message_id
        limit 1
    ) m
    order by q.n"""
PROCESSING = """
    select m.*
    from treadle.processing($1, $2, $3::jsonb) with ordinality p (message_id, n)
    cross join lateral (
        select
            o.message_id as id, o.priority, o.created_at, treadle._preview(o.user_message)::text as user_message,
            o.started_at, o.worker_id, o.thread_id, o.agent, o.attempt
        from treadle.message_overview o
        where o.message_id = p.message_id
        limit 1
    ) m
    order by p.n"""

QUEUE = """
    select queue as name, paused, queued as depth, ready as visible, processing as in_flight,
        completed, failed, cancelled, oldest_seconds as oldest_age_seconds,
        finished_per_minute as throughput_per_minute, mean_seconds as mean_processing_seconds, created_at, workers
    from treadle.queue_list(tenant => $1, queue_name => $2, after => $3, quantity => $4)"""

DEAD_LETTER_COLUMNS = """
    d.message_id, d.queue, d.reason, d.attempts, d.dead_at, d.thread_id, d.agent, d.user_message::text, d.traceback"""
AGENT_COLUMNS = """
    a.agent, a.queue, a.timeout_seconds, a.max_attempts, a.is_default, a.input::text, a.description, a.registered_at,
    a.settings::text"""

AGENT_PAGE = f"""
    select {AGENT_COLUMNS}
    from treadle.agent_overview a
    where treadle._may_address($1::jsonb, a.agent) and a.agent > $2
    order by a.agent
    limit $3"""
# The ids come first: the view would count what all workers run before they are sorted.
WORKER_PAGE = """
    select w.*
    from (
        select o.worker_id
        from treadle.worker_overview o
        where $1::timestamptz is null or (o.started_at, o.worker_id) > ($1, $2::text)
        order by o.started_at, o.worker_id
        limit $3
    ) p
    cross join lateral (select * from treadle.worker_overview o where o.worker_id = p.worker_id limit 1) w
    order by w.started_at, w.worker_id"""
INSTANCE_PAGE = """
    select i.agent, i.thread_id, i.worker_id, i.made_at, i.age_seconds, k.key
    from treadle.instance_overview i
    cross join lateral concat_ws('/', i.thread_id, i.worker_id, i.agent) k (key)
    where i.tenant = $1
        and ($2::text is null or i.agent = $2)
        and ($3::text is null or i.thread_id = $3)
        and treadle._may_address($4::jsonb, i.agent)
        and treadle._sees_thread(reach => $4::jsonb, owner => i.owner, agents => i.agents, thread_id => i.thread_id)
        and ($5::timestamptz is null or i.made_at < $5 or (i.made_at = $5 and k.key > $6::text))
    order by i.made_at desc, k.key
    limit $7"""


class QueueStore:
    """`lists` is a pool of its own, so that slow lists do not delay other calls; by default all share one pool."""

    def __init__(self, database: Database, *, lists: Database | None = None) -> None:
        self._database = database
        self._lists = lists or database
        self._queue_lists = SharedReads(self._read_queues)
        self._worker_lists = SharedReads(self._read_workers)

    async def overview(self, principal: Principal) -> Overview:
        totals = await self._lists.fetchrow(
            "select coalesce(sum(queued), 0)::bigint as queued, coalesce(sum(processing), 0)::bigint as processing,"
            " coalesce(sum(completed), 0)::bigint as completed, coalesce(sum(failed), 0)::bigint as failed,"
            " coalesce(sum(cancelled), 0)::bigint as cancelled from treadle.tenant_counts"
            " where $1::text is null or tenant = $1",
            _figures_of(principal),
        )
        queued = await self._lists.fetch(QUEUED, OVERVIEW_MESSAGES, principal.tenant, principal.reach)
        running = await self._lists.fetch(PROCESSING, OVERVIEW_MESSAGES, principal.tenant, principal.reach)
        assert totals is not None
        processing = [from_row(Processing, row, ("user_message",)) for row in running]
        return Overview(
            totals["queued"],
            totals["processing"],
            totals["completed"],
            totals["failed"],
            totals["cancelled"],
            [from_row(Waiting, row, ("user_message",)) for row in queued],
            processing[0] if processing else None,
            processing,
        )

    async def all(self, principal: Principal) -> list[Queue]:
        """By name."""
        return await read_all(lambda after, limit: self.page(principal, after, limit))

    async def page(self, principal: Principal, after: str | None, limit: int) -> tuple[list[Queue], str | None]:
        """Those behind the name `after`, and the name of the last one where others follow."""
        return await self._queue_lists.ask((_figures_of(principal), after, limit))

    async def _read_queues(self, asked: tuple[str | None, str | None, int]) -> tuple[list[Queue], str | None]:
        tenant, after, limit = asked
        tenant_of_request.set(tenant or "")
        rows = await self._lists.fetch(QUEUE, tenant, None, after, limit + 1)
        page = msgspec.convert(rows[:limit], list[Queue])
        return page, page[-1].name if len(rows) > limit else None

    async def get(self, principal: Principal, name: str) -> Queue:
        """Raises NotFound."""
        row = await self._lists.fetchrow(QUEUE, _figures_of(principal), name, None, None)
        if row is None:
            raise NotFound(f"There is no queue {name!r}.")
        return msgspec.convert(row, Queue)

    async def pause(self, principal: Principal, name: str, paused: bool) -> Queue:
        """Stop or resume claims; raises NotFound."""
        await self._database.fetchval("select treadle.pause($1, $2, actor => $3)", name, paused, principal.name)
        return await self.get(principal, name)

    async def dead_letters(self, principal: Principal, name: str | None, limit: int) -> list[DeadLetter]:
        """The newest first, of one queue or of all: at most `limit` letters and about JSON_PAGE_BYTES bytes, but at
        least one letter."""
        rows = await self._lists.fetch(
            f"select {DEAD_LETTER_COLUMNS} from treadle.newest_dead_letters("
            "quantity => $1, queue_name => $2, page_bytes => $3, tenant => $4, reach => $5::jsonb) d",
            limit,
            name,
            JSON_PAGE_BYTES,
            principal.tenant,
            principal.reach,
        )
        return [from_row(DeadLetter, row, ("user_message",)) for row in rows]

    async def dead_letter_page(
        self, principal: Principal, name: str, limit: int, before: int | None
    ) -> tuple[list[DeadLetter], int | None]:
        """The newest before one (a dlq_id), and the last of them where more follow. A page has at most `limit` letters
        and about JSON_PAGE_BYTES bytes, but at least one letter."""
        rows = await self._lists.fetch(
            f"select {DEAD_LETTER_COLUMNS}, d.dlq_id, d.more from treadle.dead_letter_page("
            "queue_name => $1, quantity => $2, before => $3, page_bytes => $4, tenant => $5, reach => $6::jsonb) d"
            " order by d.dlq_id desc",
            name,
            limit,
            before,
            JSON_PAGE_BYTES,
            principal.tenant,
            principal.reach,
        )
        page = [from_row(DeadLetter, row, ("user_message",)) for row in rows]
        return page, rows[-1]["dlq_id"] if rows and rows[-1]["more"] else None

    async def agents(self, principal: Principal) -> list[Agent]:
        """Those that the principal may address, by name."""
        return await read_all(lambda after, limit: self.agent_page(principal, after, limit))

    async def agent_page(self, principal: Principal, after: str | None, limit: int) -> tuple[list[Agent], str | None]:
        """Those behind the name `after`, and the name of the last one where others follow."""
        rows, following = await read_page(
            lambda name, quantity: self._lists.fetch(AGENT_PAGE, principal.reach, name or "", quantity),
            lambda row: str(row["agent"]),
            after=after,
            limit=limit,
        )
        return [from_row(Agent, row, ("input", "settings")) for row in rows], following

    async def workers(self) -> list[Worker]:
        """Those that live, the oldest first."""
        return await read_all(self.worker_page)

    async def worker_page(self, after: NamedPosition | None, limit: int) -> tuple[list[Worker], NamedPosition | None]:
        """Those behind a place, and the place of the last one where others follow."""
        return await self._worker_lists.ask((after, limit))

    async def _read_workers(self, asked: tuple[NamedPosition | None, int]) -> tuple[list[Worker], NamedPosition | None]:
        tenant_of_request.set("")
        rows, following = await read_page(
            lambda after, quantity: self._lists.fetch(WORKER_PAGE, *(after or (None, None)), quantity),
            lambda row: NamedPosition(row["started_at"], row["worker_id"]),
            after=asked[0],
            limit=asked[1],
        )
        return msgspec.convert(rows, list[Worker]), following

    async def instance_page(
        self,
        principal: Principal,
        *,
        agent: str | None,
        thread_id: str | None,
        limit: int,
        after: NamedPosition | None = None,
    ) -> tuple[list[Instance], NamedPosition | None]:
        """The warm instances of the tenant that the principal sees, the newest first, behind a place; and the place of
        the last one where others follow."""
        rows = await self._lists.fetch(
            INSTANCE_PAGE,
            principal.tenant,
            agent,
            thread_id,
            principal.reach,
            *(after or (None, None)),
            limit + 1,
        )
        page = rows[:limit]
        following = NamedPosition(page[-1]["made_at"], page[-1]["key"]) if len(rows) > limit else None
        return msgspec.convert(page, list[Instance]), following

    async def drop_instance(self, principal: Principal, agent: str, thread_id: str) -> None:
        """Tell every worker; raises NotFound where there is no such agent."""
        await self._database.fetchval(
            "select treadle.drop_instance($1, $2, tenant => $3, reach => $4::jsonb)",
            agent,
            thread_id,
            principal.tenant,
            principal.reach,
        )

    async def register_agents(self, agents: Sequence[dict[str, Any]], default_agent: str | None) -> str | None:
        """Upsert agents, create their queues, and declare the default agent, unless it is None. Returns the agent that
        was declared before, if it was another one."""
        former: str | None = await self._database.fetchval(
            "select treadle.register_agents($1::jsonb, $2)", msgspec.json.encode(agents).decode(), default_agent
        )
        return former


def _figures_of(principal: Principal) -> str | None:
    """Whose messages the figures of queues count: its tenant's; None, those of all, for an operator."""
    return None if principal.is_operator else principal.tenant
