"""Threads in PostgreSQL."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.cursors import Position
from service.db.pool import DELETION_TIMEOUT_SECONDS, Database
from service.db.rows import from_row
from service.errors import NotFound
from service.patience import DIRECT_CALLS, HELD_SECONDS, Patience
from service.threads.model import MessagePlace, States, Thread, ThreadPlace, ThreadSummary, Usage

THREAD_COLUMNS = """
    t.thread_id, t.message_count, t.created_at, t.last_activity, t.queued, t.processing, t.completed, t.failed,
    t.cancelled, t.metadata::text, t.memory::text"""
RECENT_PROGRESS_EVENTS = 50
CONCURRENT_DELETIONS = 2  # each holds a connection


class StoredExchange(msgspec.Struct, frozen=True):
    """A completed message with its answer and the data of its `tool` events, as stored; agents get an Exchange."""

    message: Any
    result: Any
    tools: list[Any] = []


class StoredTurn(msgspec.Struct, frozen=True):
    """The message that has a thread's turn, with its step results and the data of its last `progress` events, as
    stored; agents get an UnderWay."""

    message_id: UUID
    agent: str
    message: Any
    steps: dict[str, Any]
    progress: list[Any]


class TurnHolder(NamedTuple):
    """The message that has a thread's turn. `asks`: it waits for the answer to a question."""

    message_id: UUID
    asks: bool


class OpenMessage(NamedTuple):
    """A message of a thread that is not over. `question`: the name of the question that it waits with."""

    message_id: UUID
    agent: str
    question: str | None


class ThreadStore:
    """`reads`, `lists` and `streams` (for where a stream begins) are pools of their own, so that slow lookups and lists
    do not delay other calls; by default all share one pool."""

    def __init__(
        self,
        database: Database,
        *,
        reads: Database | None = None,
        lists: Database | None = None,
        streams: Database | None = None,
    ) -> None:
        self._database = database
        self._reads = reads or database
        self._streams = streams or database
        self._lists = lists or database
        self._deletions = Patience(seconds=HELD_SECONDS, slots=CONCURRENT_DELETIONS)
        self._changes = Patience(seconds=HELD_SECONDS, slots=CONCURRENT_DELETIONS)
        self._creations = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)

    async def page(
        self, principal: Principal, limit: int, before: Position | None, *, text: str | None = None
    ) -> tuple[list[ThreadSummary], Position | None]:
        """Threads, the last active first, and the last one that was looked at (None: all were). With a text, those that
        have it in their id, their metadata or the beginning of their last message. Those of keys of records are left
        out. It looks at a bounded number of threads, so that there may be others although it found few."""
        rows = await self._lists.fetch(
            "select thread, thread_id, message_count, created_at, last_activity, last_message_preview"
            " from treadle.find_threads(q => $1, before => $2, before_thread => $3, quantity => $4, tenant => $5,"
            " reach => $6::jsonb) order by last_activity desc, thread desc, thread_id",
            text,
            *(before or (None, None)),
            limit,
            principal.tenant,
            principal.reach,
        )
        following = None
        if rows and rows[-1]["thread_id"] is None:
            following = Position(rows[-1]["last_activity"], rows[-1]["thread"])
            rows = rows[:-1]
        return msgspec.convert(rows, list[ThreadSummary]), following

    async def get(self, principal: Principal, thread_id: str) -> Thread:
        """Raises NotFound."""
        row = await self._lists.fetchrow(
            f"select {THREAD_COLUMNS} from treadle.thread_overview t where t.tenant = $1 and t.thread_id = $2"
            " and treadle._sees_thread(reach => $3::jsonb, owner => t.owner, agents => t.agents,"
            " thread_id => t.thread_id)",
            principal.tenant,
            thread_id,
            principal.reach,
        )
        if row is None:
            raise _unknown(thread_id)
        states = from_row(States, row)
        return from_row(Thread, row, ("metadata", "memory"), states=states, phase=states.phase)

    async def usage(self, principal: Principal, thread_id: str) -> Usage:
        """Raises NotFound."""
        thread, _ = await self.key(principal, thread_id)
        row = await self._lists.fetchrow("select messages, usage::text from treadle.thread_usage($1)", thread)
        assert row is not None
        return from_row(Usage, row, ("usage",), thread_id=thread_id)

    async def key(self, principal: Principal, thread_id: str) -> tuple[int, int]:
        """The thread's surrogate key and its number of messages; raises NotFound."""
        row = await self._lists.fetchrow(
            "select thread, message_count"
            " from treadle.thread_logs(thread_ids => array[$1], tenant => $2, reach => $3::jsonb)",
            thread_id,
            principal.tenant,
            principal.reach,
        )
        if row is None or row["thread"] is None:
            raise _unknown(thread_id)
        return row["thread"], row["message_count"]

    async def place(self, principal: Principal, thread_id: str, position: int) -> ThreadPlace:
        """The thread's log, and what it has at `position`; raises NotFound."""
        row = await self._streams.fetchrow(
            "select thread, last_pos, event_at"
            " from treadle.thread_place(thread_id => $1, pos => $2, tenant => $3, reach => $4::jsonb)",
            thread_id,
            position,
            principal.tenant,
            principal.reach,
        )
        if row is None:
            raise _unknown(thread_id)
        return ThreadPlace(row["thread"], row["last_pos"], row["event_at"])

    async def thread_logs(self, asked: Sequence[tuple[Principal, str]]) -> list[tuple[int, int] | None]:
        """For each of these threads its surrogate key and the last thread_pos of its log; None if it does not exist
        for the principal."""
        rows = await self._streams.fetch(
            "select l.thread, l.last_pos"
            " from unnest($1::text[], $2::text[], $3::text[]) with ordinality a (thread_id, tenant, reach, n)"
            " cross join lateral treadle.thread_logs("
            "thread_ids => array[a.thread_id], tenant => a.tenant, reach => a.reach::jsonb) l"
            " order by a.n",
            [thread_id for _, thread_id in asked],
            [principal.tenant for principal, _ in asked],
            [principal.reach for principal, _ in asked],
        )
        return [None if row["thread"] is None else (row["thread"], row["last_pos"]) for row in rows]

    async def agent_while_busy(self, principal: Principal, thread_id: str, agent: str | None) -> str | None:
        """The agent that answers at once while another agent is at work in the thread. `agent` is the one that the
        message names, if any. None if no agent is at work, the working one names no other, or `agent` is a third."""
        found = await self._reads.fetchval(
            "select treadle.agent_while_busy(thread_id => $1, agent => $2, tenant => $3, reach => $4::jsonb)",
            thread_id,
            agent,
            principal.tenant,
            principal.reach,
        )
        return None if found is None else str(found)

    async def delete(self, principal: Principal, thread_id: str) -> int:
        """Delete it with its messages and events; returns how many messages. Raises NotFound, Busy."""
        deleted = await self._deletions.run(
            lambda _: self._database.fetchval(
                "select treadle.delete_thread($1, $2, patient => false, reach => $3::jsonb, actor => $4)",
                thread_id,
                principal.tenant,
                principal.reach,
                principal.name,
                repeatable=False,
                timeout=DELETION_TIMEOUT_SECONDS,
            ),
            key=principal.thread_key(thread_id),
            group=principal.tenant,
        )
        return int(deleted)

    async def change(self, principal: Principal, thread_id: str, metadata: dict[str, Any]) -> None:
        """Raises NotFound, Busy."""
        await self._changes.run(
            lambda _: self._database.fetchval(
                "select treadle.change_thread($1, $2::jsonb, patient => false, tenant => $3, reach => $4::jsonb,"
                " actor => $5)",
                thread_id,
                msgspec.json.encode(metadata).decode(),
                principal.tenant,
                principal.reach,
                principal.name,
                repeatable=False,
            ),
            key=principal.thread_key(thread_id),
            group=principal.tenant,
        )

    async def create(
        self, principal: Principal, thread_id: str, metadata: dict[str, Any], memory: dict[str, Any] | None = None
    ) -> bool:
        """A thread without messages; whether it is new. `memory`: what its agents find there. Raises NotFound for one
        that the principal does not see, and Busy."""
        is_new = await self._creations.run(
            lambda _: self._database.fetchval(
                "select treadle.create_thread($1, $2::jsonb, $3::jsonb, tenant => $4, reach => $5::jsonb,"
                " patient => false)",
                thread_id,
                msgspec.json.encode(metadata).decode(),
                None if memory is None else msgspec.json.encode(memory).decode(),
                principal.tenant,
                principal.reach,
                repeatable=False,
            ),
            key=principal.thread_key(thread_id),
            group=principal.tenant,
        )
        return bool(is_new)

    async def begin(
        self,
        principal: Principal,
        thread_id: str,
        name: str,
        items: Sequence[Any],
        metadata: dict[str, Any] | None,
        *,
        max_items: int,
        max_bytes: int,
    ) -> list[Any]:
        """Add items to the list `name` in the metadata of a thread without messages, which is created where it is not
        there, and (not None) set its other metadata. Returns the list. Raises NotFound, Unprocessable, Busy."""
        text = await self._changes.run(
            lambda _: self._database.fetchval(
                "select treadle.begin_thread($1, $2, $3::jsonb, $4::jsonb, $5, $6, patient => false, tenant => $7,"
                " reach => $8::jsonb, actor => $9)::text",
                thread_id,
                name,
                msgspec.json.encode(items).decode(),
                None if metadata is None else msgspec.json.encode(metadata).decode(),
                max_items,
                max_bytes,
                principal.tenant,
                principal.reach,
                principal.name,
                repeatable=False,
            ),
            key=principal.thread_key(thread_id),
            group=principal.tenant,
        )
        return msgspec.json.decode(text, type=list[Any])

    async def message_place(self, message_id: UUID) -> MessagePlace | None:
        """Where a message, which the caller has looked up for its principal, stands in its thread; None if it has no
        thread."""
        row = await self._reads.fetchrow(
            "select o.thread, o.ord, not exists (select from treadle.message_overview l"
            " where l.thread = o.thread and l.ord > o.ord) as is_last"
            " from treadle.message_overview o where o.message_id = $1 and o.thread is not null",
            message_id,
        )
        return None if row is None else MessagePlace(row["thread"], row["ord"], row["is_last"])

    async def exchanges(
        self, thread: int, before: int, limit: int, tools: bool, max_bytes: int | None
    ) -> list[StoredExchange]:
        """The last `limit` completed messages of a thread before the one with ord `before`, oldest first; of these the
        last ones that have at most `max_bytes` of JSON text together."""
        rows = await self._reads.fetch(
            "select message, result, tools"
            " from treadle.exchanges(thread => $1, before => $2, quantity => $3, with_tools => $4, max_bytes => $5)",
            thread,
            before,
            limit,
            tools,
            max_bytes,
        )
        return msgspec.convert(rows[::-1], list[StoredExchange])

    async def turn_holder(self, principal: Principal, thread_id: str) -> TurnHolder | None:
        """None if no message has the turn, and for a thread that does not exist for the principal."""
        row = await self._reads.fetchrow(
            "select message_id, asks from treadle.turn_holder($1, tenant => $2, reach => $3::jsonb)",
            thread_id,
            principal.tenant,
            principal.reach,
        )
        return None if row is None else TurnHolder(*row)

    async def open_messages(self, principal: Principal, thread: int) -> list[OpenMessage]:
        """The message that has the turn in a thread, and those of its last thousand that are not over, in its order.
        None of a thread that does not exist for the principal."""
        rows = await self._reads.fetch(
            "select message_id, agent, question from treadle.open_messages($1, tenant => $2, reach => $3::jsonb)",
            thread,
            principal.tenant,
            principal.reach,
        )
        return [OpenMessage(*row) for row in rows]

    async def turn_in_progress(self, thread: int) -> StoredTurn | None:
        """None if no message has the turn."""
        row = await self._reads.fetchrow(
            "select message_id, agent, message, steps, progress from treadle.turn_in_progress($1, $2)",
            thread,
            RECENT_PROGRESS_EVENTS,
        )
        return None if row is None else msgspec.convert(row, StoredTurn)


def _unknown(thread_id: str) -> NotFound:
    return NotFound(f"There is no thread {thread_id!r}.")
