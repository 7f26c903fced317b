"""What the dialect asks about threads and runs, and changes of them that no native route makes."""

from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import NotFound
from service.limits import MAX_POSITION, OWN_STEP_PREFIX
from service.messages.lookup.store import JSON_COLUMNS, STATUS_COLUMNS
from service.messages.model import Question, Status
from service.patience import HELD_SECONDS, Patience
from service.protocols.langgraph.conversation import Exchange
from service.protocols.langgraph.lookup.store import ThreadLookup
from service.protocols.langgraph.model import Json

CONCURRENT_CHANGES = 2  # calls of one kind at once; each holds a connection
STATE_STEPS = f"^{OWN_STEP_PREFIX}state [0-9]+$"  # names of steps with the state after a message (thread_state.py)
SEARCHED_MESSAGES = 2_000  # of a thread, for its runs with a status: the last ones
# Of the last run of a message, by the state of the message.
STATUSES = {
    "queued": "pending",
    "processing": "running",
    "completed": "success",
    "failed": "error",
    "cancelled": "interrupted",
}

_COLUMNS = f"select {STATUS_COLUMNS}, null::integer as queue_position, o.ord, o.interrupted"
_EXCHANGE = f"""
    {_COLUMNS}, p.said, p.graph::text
    from treadle.message_overview o
    cross join lateral treadle.last_outputs(array[o.message_id]) p
    where o.message_id = $1
        and o.tenant = $2
        and treadle._sees(
            reach => $3::jsonb, owner => o.owner, agent => o.agent, thread_id => o.thread_id,
            message_id => o.message_id)"""
# The newest first; as many as have so many bytes together, but at least one.
_EXCHANGES = f"""
    select s.*
    from (
        select r.*, row_number() over by_ord as place,
            sum(octet_length(r.user_message) + coalesce(octet_length(r.result), 0)
                + coalesce(octet_length(r.graph), 0) + octet_length(r.metadata)) over by_ord as bytes
        from (
            {_COLUMNS}, p.said, p.graph::text
            from (
                select v.* from treadle.message_overview v
                where v.thread = $1 and v.ord < $2 and not v.aside
                order by v.ord desc limit $3
            ) o
            cross join lateral treadle.last_outputs(array[o.message_id]) p
        ) r
        window by_ord as (order by r.ord desc rows unbounded preceding)
    ) s
    where s.place = 1 or s.bytes <= $4
    order by s.ord desc"""
_COMPLETED_BEFORE = """
    select v.message_id
    from treadle.message_overview v
    where v.thread = $1
        and v.ord < $2
        and not v.aside
        and v.agent = $3
        and v.state = 'completed'
        and not v.metadata ? 'langgraph_deleted'
    order by v.ord desc
    limit 1"""
_STATE = """
    select treadle.last_step(v.message_id, $3)::text
    from treadle.message_overview v
    where v.thread = $1 and v.message_id = $2"""
_STATUS_ROWS = ", ".join(f"('{state}', '{status}')" for state, status in STATUSES.items())
_QUESTIONS = "select q.seq, q.answered from treadle.questions(array[$1::uuid]) q"
# A message is a run, and one more after each answer to its questions; the newest run first. The runs of the last
# messages are looked at: of as many as the page can have, or, to find those with a status, of SEARCHED_MESSAGES.
_RUNS = f"""
    with exchanges as materialized (
        select v.message_id, v.ord, v.state, v.attempt
        from treadle.message_overview v
        where v.thread = $1
            and not v.aside
            and not v.metadata ? 'langgraph_deleted'
            and not (v.state = 'cancelled' and not v.interrupted and v.metadata ? 'langgraph')
            and not coalesce(v.metadata -> 'langgraph' ? 'update', false)
        order by v.ord desc
        limit case when $4::text is null then $2::bigint + $3::bigint else {SEARCHED_MESSAGES} end
    ), asked as materialized (
        select q.message_id, q.seq, q.answered
        from treadle.questions(array(select t.message_id from exchanges t where t.attempt > 0)) q
    ), runs as (
        select t.message_id, t.ord, r.after,
            case
                when exists (select from asked q where q.message_id = t.message_id and q.seq > r.after) then 'success'
                else e.status
            end as status
        from exchanges t
        join (values {_STATUS_ROWS}) e (state, status) on e.state = t.state
        cross join lateral (
            select 0 as after
            union all
            select q.seq from asked q where q.message_id = t.message_id and q.answered
        ) r
    )
    select s.*
    from (
        select r.*, row_number() over by_place as place,
            sum(octet_length(r.user_message) + octet_length(r.metadata)) over by_place as bytes
        from (
            {_COLUMNS.replace("o.result::text", "null::text as result")}, null as said, null as graph, p.after, p.status
            from (
                select f.*
                from runs f
                where $4::text is null or f.status = $4
                order by f.ord desc, f.after desc
                limit $2 offset $3
            ) p
            join treadle.message_overview o on o.message_id = p.message_id
        ) r
        window by_place as (order by r.ord desc, r.after desc rows unbounded preceding)
    ) s
    where s.place = 1 or s.bytes <= $5
    order by s.ord desc, s.after desc"""


class Asked(NamedTuple):
    """A question that a message has asked a person, by its place in the log."""

    seq: int
    answered: bool


class PlacedExchange(msgspec.Struct, frozen=True):
    ord: int
    exchange: Exchange


class PlacedRun(NamedTuple):
    """`after`: the place of the question after whose answer it begins; 0: it begins with the message."""

    placed: PlacedExchange
    after: int
    status: str


class LangGraphStore(ThreadLookup):
    """`reads` and `lists` are pools of their own, so that slow lookups and lists do not delay other calls."""

    def __init__(self, database: Database, *, reads: Database, lists: Database) -> None:
        super().__init__(reads, lists)
        self._database = database
        self._changes = Patience(seconds=HELD_SECONDS, slots=CONCURRENT_CHANGES)
        self._items = Patience(seconds=HELD_SECONDS, slots=CONCURRENT_CHANGES)

    async def exchange(self, principal: Principal, message_id: UUID) -> PlacedExchange:
        """Raises NotFound."""
        row = await self._reads.fetchrow(_EXCHANGE, message_id, principal.tenant, principal.reach)
        if row is None:
            raise NotFound(f"There is no run {str(message_id)!r}.")
        return _exchange(row)

    async def exchanges(
        self, thread: int, limit: int, max_bytes: int, before: int = MAX_POSITION
    ) -> list[PlacedExchange]:
        """The last exchanges of a thread, which the caller has looked up for its principal, before the one with the ord
        `before`; the newest first. There are at most `limit`, and they have about `max_bytes` bytes."""
        rows = await self._lists.fetch(_EXCHANGES, thread, before, limit, max_bytes)
        return [_exchange(row) for row in rows]

    async def completed_before(self, thread: int, before: int, agent: str) -> UUID | None:
        """The last message of the agent in a thread, which the caller has looked up for its principal, that was
        completed before the one with the ord `before`."""
        found: UUID | None = await self._lists.fetchval(_COMPLETED_BEFORE, thread, before, agent)
        return found

    async def state_after(self, thread: int, message_id: str) -> str | None:
        """The state of the graph after a message of a thread, which the caller has looked up for its principal, as an
        adapter has written it. None: it is not kept for another run. The id may be any text."""
        try:
            kept = await self._lists.fetchval(_STATE, thread, UUID(message_id), STATE_STEPS)
        except ValueError:
            return None
        return None if kept is None else str(msgspec.json.decode(kept)[-1])

    async def runs(self, thread: int, limit: int, offset: int, status: str | None, max_bytes: int) -> list[PlacedRun]:
        """The runs of a thread, which the caller has looked up for its principal, with the status (None: any); the
        newest first. They have about `max_bytes` bytes, and neither results nor what they said."""
        rows = await self._lists.fetch(_RUNS, thread, limit, offset, status, max_bytes)
        return [PlacedRun(_exchange(row), row["after"], row["status"]) for row in rows]

    async def questions(self, message_id: UUID) -> list[Asked]:
        """What a message, which the caller has looked up for its principal, has asked a person so far."""
        return [Asked(*row) for row in await self._reads.fetch(_QUESTIONS, message_id)]

    async def interrupt(self, principal: Principal, message_id: UUID) -> None:
        """Raises NotFound, Conflict, Busy."""
        await self._changes.run(
            lambda _: self._database.fetchval(
                "select treadle.interrupt($1, patient => false, tenant => $2, reach => $3::jsonb, actor => $4)",
                message_id,
                principal.tenant,
                principal.reach,
                principal.name,
                repeatable=False,
            ),
            group=principal.tenant,
        )

    async def use_store(self, principal: Principal, call: Json) -> Any:
        """The answer of a call of the store (sql/78_store.sql). Raises Forbidden, Unprocessable, QueueFull, Busy."""
        text = msgspec.json.encode([call]).decode()
        if call["op"] in ("put", "delete"):
            answers = await self._items.run(
                lambda _: self._use(self._database, principal, text, patient=False),
                key=(principal.tenant, principal.subject, *call["namespace"], call["key"]),
                characters=len(text),
                group=principal.tenant,
            )
        else:
            reads = self._lists if call["op"] in ("search", "namespaces") else self._reads
            answers = await self._use(reads, principal, text, patient=True)
        [answer] = msgspec.json.decode(answers)
        return answer

    async def _use(self, database: Database, principal: Principal, calls: str, *, patient: bool) -> str:
        answers: str = await database.fetchval(
            "select treadle.use_store($1::jsonb, tenant => $2, reach => $3::jsonb, patient => $4)::text",
            calls,
            principal.tenant,
            principal.reach,
            patient,
        )
        return answers


def _exchange(row: Any) -> PlacedExchange:
    plain: Any = {name: msgspec.json.decode(row[name]) for name in JSON_COLUMNS - {"asks"} if row[name] is not None}
    asks = None if row["asks"] is None else msgspec.json.decode(row["asks"], type=Question)
    message = msgspec.structs.replace(from_row(Status, row), **plain, asks=asks)
    graph = None if row["graph"] is None else msgspec.json.decode(row["graph"])
    return PlacedExchange(row["ord"] or 0, Exchange(message, row["interrupted"], row["said"], graph))
