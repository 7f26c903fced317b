"""What workers do with a lease, each step one SQL function: claim, append, finish, beat; and the janitor's chores."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from service.db.notifier import EVENTS
from service.db.pool import COMMAND_TIMEOUT, DELETION_TIMEOUT, Database
from service.queues.model import Claim

SLOWEST = 200_000  # characters a second, of a line that still serves


class EventToAppend(msgspec.Struct, frozen=True):
    """An event of an attempt; `data` is JSON text. `sends`: messages to be submitted with it, a JSON array as
    treadle.submit_many reads it."""

    type: str
    data: str
    sends: str | None = None


class Append(msgspec.Struct, frozen=True):
    """Events of one attempt; the first has seq `first_seq`. One that has messages to be submitted with it is the
    only one."""

    message_id: UUID
    lease: UUID
    first_seq: int
    events: Sequence[EventToAppend]

    @property
    def sends(self) -> str | None:
        return self.events[0].sends if self.events else None


class Appended(msgspec.Struct, frozen=True):
    message_id: UUID
    status: str  # ok, lost, gap, busy
    cancel_requested: bool


class Finish(msgspec.Struct, frozen=True):
    """The end of an attempt, with the events not yet sent. `result` and `usage` are JSON text; `delay` in seconds.

    The last three make it one that goes alone (treadle.conclude): messages to be submitted with it, the new memory of
    its thread, and the messages that it waits for.
    """

    message_id: UUID
    lease: UUID
    outcome: str  # completed, error, rejected, deferred, released, lost, children, input
    result: str | None
    error: str | None
    traceback: str | None
    delay: float | None
    usage: str | None
    first_seq: int
    events: Sequence[EventToAppend]
    sends: str | None = None
    memory: str | None = None
    children: Sequence[UUID] | None = None

    @property
    def plain(self) -> bool:
        """Whether treadle.finish can end it, among others."""
        return self.outcome not in {"children", "input"} and self.sends is None and self.memory is None


class Finished(msgspec.Struct, frozen=True):
    message_id: UUID
    status: str  # the new state, or lost, gap, busy


class Child(msgspec.Struct, frozen=True):
    """A message that another one waits for; `result` is JSON text, `thread_id` the thread whose turn it takes."""

    message_id: UUID
    state: str  # `gone` where there is no such message any more
    result: str | None = None
    error: str | None = None
    parent: UUID | None = None
    thread_id: str | None = None


class Recorded(msgspec.Struct, frozen=True):
    """What a message's earlier attempts left in its log: results of steps and answers to questions, by name, as JSON
    text; and the ids of what they have sent."""

    steps: dict[str, str] = {}
    inputs: dict[str, str] = {}
    sent: set[str] = set()


class Verdict(msgspec.Struct, frozen=True):
    message_id: UUID
    lease: UUID
    verdict: str  # lost, cancelled


class VacuumHealth(msgspec.Struct, frozen=True):
    """The table with most dead rows (where they are a tenth or more), and the oldest snapshot that keeps them."""

    dead_rows: int | None
    table_name: str | None
    snapshot_seconds: float | None
    holder: str | None


# The columns in the order of the fields: rows become structs by position, which costs a tenth of looking at each value.
CLAIM = f"select {', '.join(Claim.__struct_fields__)} from treadle.claim_2($1, $2, $3, $4, $5)"
APPEND = f"select {', '.join(Appended.__struct_fields__)} from treadle.append($1, $2, $3, $4, $5, $6, $7)"
APPEND_AND_SEND = f"""
    select {", ".join(Appended.__struct_fields__)} from treadle.append_and_send($1, $2, $3, $4, $5, $6)"""
CONCLUDE = "select treadle.conclude($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
FINISH = f"""
    select {", ".join(Finished.__struct_fields__)}
    from treadle.finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"""


class LeaseStore:
    """For workers: each method is one SQL function, batch-native, and can be repeated after a lost answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, worker: str, queues: Sequence[str], quantity: int, lease_seconds: float, reverse: bool
    ) -> list[Claim]:
        rows = await self._database.fetch(
            CLAIM,
            worker,
            queues,
            quantity,
            lease_seconds,
            reverse,
            repeatable=False,  # the heartbeat frees what a lost answer claimed
        )
        return [Claim(*row) for row in rows]

    async def append(self, appends: Sequence[Append], patient: bool, hint: str | None = None) -> list[Appended]:
        """`hint`: what to tell those who listen for events with the commit itself (see Notifier)."""
        rows = await self._database.fetch(
            APPEND if hint is None else f"{APPEND}, pg_notify('{EVENTS}', $8)",
            [append.message_id for append in appends],
            [append.lease for append in appends],
            [append.first_seq for append in appends],
            *_flatten([append.events for append in appends]),
            patient,
            *([] if hint is None else [hint]),
            timeout=time_for(appends),
        )
        return [Appended(*row) for row in rows]

    async def finish(self, finishes: Sequence[Finish], patient: bool, max_losses: int) -> list[Finished]:
        rows = await self._database.fetch(
            FINISH,
            [finish.message_id for finish in finishes],
            [finish.lease for finish in finishes],
            [finish.outcome for finish in finishes],
            _column(finish.result for finish in finishes),
            _column(finish.error for finish in finishes),
            _column(finish.traceback for finish in finishes),
            _column(finish.delay for finish in finishes),
            _column(finish.usage for finish in finishes),
            [finish.first_seq for finish in finishes],
            *_flatten([finish.events for finish in finishes]),
            patient,
            max_losses,
            timeout=time_for(finishes),
        )
        return [Finished(*row) for row in rows]

    async def append_and_send(self, append: Append) -> Appended:
        row = await self._database.fetchrow(
            APPEND_AND_SEND,
            append.message_id,
            append.lease,
            append.first_seq,
            [event.type for event in append.events],
            [event.data for event in append.events],
            append.sends,
            timeout=time_for([append]),
        )
        assert row is not None
        return Appended(*row)

    async def conclude(self, finish: Finish, max_losses: int) -> Finished:
        """For what is not plain."""
        status = await self._database.fetchval(
            CONCLUDE,
            finish.message_id,
            finish.lease,
            finish.outcome,
            finish.result,
            finish.error,
            finish.traceback,
            finish.delay,
            finish.usage,
            finish.first_seq,
            [event.type for event in finish.events],
            [event.data for event in finish.events],
            max_losses,
            finish.sends,
            finish.memory,
            finish.children,
            timeout=time_for([finish]),
        )
        return Finished(finish.message_id, status)

    async def recorded(self, message_id: UUID) -> Recorded:
        rows = await self._database.fetch(
            "select e.type, e.data ->> 'name' as name, e.data -> 'sent' as sent,"
            " (e.data -> case e.type when 'step' then 'result' else 'input' end)::text as data"
            " from treadle.events e where e.message_id = $1 and e.type in ('step', 'input', 'parked')",
            message_id,
        )
        return Recorded(
            {row["name"]: row["data"] for row in rows if row["type"] == "step"},
            {row["name"]: row["data"] for row in rows if row["type"] == "input"},
            {child for row in rows for child in row["sent"] or ()},
        )

    async def children(self, message_ids: Sequence[UUID]) -> list[Child]:
        """How these messages stand, in this order."""
        rows = await self._database.fetch(
            "select u.id, coalesce(m.state, 'gone'), m.result::text, m.error, m.parent,"
            " case when not m.aside then t.thread_id end"
            " from unnest($1::uuid[]) with ordinality u (id, n)"
            " left join treadle.messages m on m.message_id = u.id"
            " left join treadle.threads t on t.id = m.thread order by u.n",
            message_ids,
        )
        return [Child(*row) for row in rows]

    async def tend_parents(self, message_ids: Sequence[UUID] | None = None) -> int:
        """Let those of these messages (None: of all) go on whose children are over; returns how many."""
        return int(await self._database.fetchval("select treadle.tend_parents($1)", message_ids))

    async def sign_off(self, worker: str) -> None:
        await self._database.fetchval("select treadle.sign_off($1)", worker)

    async def reap(self, janitor: str, interval: float, worker_timeout: float, max_losses: int) -> int:
        """Take back what dead workers held; returns how many messages."""
        return len(
            await self._database.fetch(
                "select * from treadle.reap($1, $2, $3, $4)", janitor, interval, worker_timeout, max_losses
            )
        )

    async def admit_due(self, limit: int) -> int:
        """Admit up to so many messages whose time has come; returns how many."""
        return int(await self._database.fetchval("select treadle.admit_due($1)", limit))

    async def fold_counters(self) -> None:
        await self._database.fetchval("select treadle.fold_counters()")

    async def sweep(self, whole: bool) -> None:
        """Let the low-water marks follow; `whole`: also back, to rows that show again."""
        await self._database.fetchval("select treadle.sweep($1)", whole)

    async def vacuum_health(self) -> VacuumHealth:
        row = await self._database.fetchrow(
            f"select {', '.join(VacuumHealth.__struct_fields__)} from treadle.vacuum_health()"
        )
        assert row is not None
        return VacuumHealth(*row)

    async def mend_lanes(self, after: UUID | None) -> tuple[UUID | None, int]:
        """Look at the next stretch of messages; returns where to go on (None: from the start) and how many were
        mended."""
        row = await self._database.fetchrow("select last, mended from treadle.mend_lanes($1)", after)
        assert row is not None
        return row["last"], row["mended"]

    async def purge(
        self, retention_hours: float, dead_letter_hours: float, after: UUID | None
    ) -> tuple[UUID | None, int]:
        """Delete a chunk of what is past its time; returns where to go on (None: there was nothing more to look at) and
        how much went."""
        row = await self._database.fetchrow(
            "select last, purged from treadle.purge($1, $2, $3)",
            retention_hours,
            dead_letter_hours,
            after,
            timeout=DELETION_TIMEOUT,
        )
        assert row is not None
        return row["last"], row["purged"]

    async def tend_partitions(self, retention_hours: float) -> None:
        """Make the partitions of the days to come, drop the empty ones past retention."""
        await self._database.fetchval("select treadle.ensure_partitions()")
        await self._database.fetchval(
            "select treadle.drop_partitions(treadle.clock() - make_interval(secs => $1 * 3600))", retention_hours
        )


HEARTBEAT = "select * from treadle.heartbeat($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"


class Heartbeat(msgspec.Struct, frozen=True):
    """What a worker says when it beats; `held` maps message_id to lease."""

    worker: str
    host: str
    pid: int
    queues: Sequence[str]
    concurrency: int
    started_at: datetime
    server_started: datetime | None
    held: dict[UUID, UUID]


async def beat(database: Database, heartbeat: Heartbeat, interval: float, lease: float, grace: float) -> list[Verdict]:
    """Say it; the answer names leases that are cancelled or lost."""
    rows = await database.fetch(
        HEARTBEAT,
        heartbeat.worker,
        heartbeat.host,
        heartbeat.pid,
        heartbeat.queues,
        heartbeat.concurrency,
        heartbeat.started_at,
        heartbeat.server_started,
        list(heartbeat.held),
        list(heartbeat.held.values()),
        interval,
        lease,
        grace,
        repeatable=False,  # what is held may have changed; the next beat comes soon
    )
    return msgspec.convert(rows, list[Verdict])


def _column(values: Iterable[Any]) -> list[Any] | None:
    """An array for PostgreSQL; null where it would hold nothing but nulls."""
    column = list(values)
    return None if column.count(None) == len(column) else column


def weight(item: Append | Finish) -> int:
    """Characters that it carries."""
    size = sum(len(event.data) + len(event.sends or "") for event in item.events)
    if isinstance(item, Finish):
        size += sum(len(text or "") for text in (item.result, item.sends, item.memory))
    return size


def time_for(items: Sequence[Append | Finish]) -> float:
    """Seconds that a call may take, so that a slow line is not asked for the same again and again."""
    return COMMAND_TIMEOUT + sum(map(weight, items)) / SLOWEST


def _flatten(lists: Sequence[Sequence[EventToAppend]]) -> tuple[list[int], list[str], list[str]]:
    """Item numbers (from 1), types and data of all events, in order."""
    return (
        [item for item, events in enumerate(lists, 1) for _ in events],
        [event.type for events in lists for event in events],
        [event.data for events in lists for event in events],
    )
