"""What a worker asks of PostgreSQL: each method calls one SQL function."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from service.db.arrays import SPLIT, array, joined
from service.db.connection import COMMAND_TIMEOUT_SECONDS
from service.db.notifier import EVENTS, Notifier
from service.db.pool import Database
from service.leases.model import (
    Append,
    Appended,
    Claim,
    Claimed,
    EarlierResults,
    EventToAppend,
    Finish,
    Finished,
    HeartbeatReport,
    SentMessage,
    Verdict,
)
from service.messages.model import Priority
from service.patience import DIRECT_CALLS, Patience

SLOWEST_LINE_CHARACTERS_PER_SECOND = 200_000

# Columns are selected in the order of the struct's fields: rows become structs by position, which costs a tenth of
# converting each value.
# One row without a message where nothing was claimed. The last columns are computed once, when the claim has ended.
CLAIM_SQL = f"""
    select {", ".join(f"c.{name}" for name in Claim.__struct_fields__)}, (select treadle._kept_hints()),
        (select treadle.passed_rows()), (select treadle._claim_is_filled())
    from (values (1)) v left join treadle.claim(
        $1, $2, $3, treadle._keep_hints($4::float8), $5, $6, $7, $8) c on true"""
APPEND_SQL = f"""
    select {", ".join(Appended.__struct_fields__)}
    from treadle.append(
        $1::text::uuid[], $2::text::uuid[], $3::text::integer[], $4::text::integer[], {SPLIT.format("$5")},
        {SPLIT.format("$6")}, $7)"""
APPEND_AND_SEND_SQL = f"""
    select {", ".join(Appended.__struct_fields__)}, treadle._kept_hints()
    from treadle.append_and_send(
        $1, $2, $3, $4, $5, $6, max_queue_size => $7, patient => treadle._keep_hints($8::boolean))"""
FINISH_SQL = f"""
    select {", ".join(Finished.__struct_fields__)}, (select treadle._kept_hints())
    from treadle.finish(
        $1::text::uuid[], $2::text::uuid[], $3::text::text[], $4, $5, $6, $7, $8, $9::text::integer[], $10, $11, $12,
        treadle._keep_hints($13::boolean), $14, $15)"""
CONCLUDE_SQL = """
    select status, treadle._kept_hints()
    from treadle.conclude(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, max_queue_size => $16,
        patient => treadle._keep_hints($17::boolean)) c (status)"""
HEARTBEAT_SQL = "select * from treadle.heartbeat($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"


class Measured(Protocol):
    """An item of a call, and its size."""

    @property
    def characters(self) -> int: ...


class LeaseStore:
    """Every call but `claim` and `heartbeat` leaves the same data when it is repeated after a lost answer.

    `max_queue_size` holds for the messages that agents send; None: no limit. `notifier` sends, after their commits, the
    hints that claims, sends and ends have kept (sql/13_hints.sql); None: they are left out. That a log has new events
    is told by the caller of `append` and `finish`, or with the commit (their argument `hint`).
    """

    def __init__(
        self, database: Database, notifier: Notifier | None = None, *, max_queue_size: int | None = None
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._max_queue_size = max_queue_size
        self._store_calls = Patience(slots=DIRECT_CALLS)

    async def instance_secret(self) -> bytes:
        """The secret in the names of warm instances."""
        secret: bytes = await self._database.fetchval("select treadle.instance_secret()")
        return secret

    async def report_instances(
        self, worker: str, threads: Sequence[int], agents: Sequence[str], ages: Sequence[float]
    ) -> None:
        """The warm instances that the worker has, zipped; `ages` in seconds."""
        await self._database.fetchval("select treadle.report_instances($1, $2, $3, $4)", worker, threads, agents, ages)

    async def claim(
        self,
        *,
        worker: str,
        queues: Sequence[str],
        quantity: int,
        lease_seconds: float,
        first_lane: Priority,
        tenants: Sequence[str] = (),
        agents: Sequence[str] | None = None,
        room_bytes: int | None = None,
    ) -> Claimed:
        """Lease up to `quantity` messages: lane by lane, `first_lane` before the others; in a lane queue by queue.
        `tenants`: only of these; empty: of all. `agents`: only for these; None: for all. `room_bytes`: about so many
        bytes, which only the last message exceeds; None: any number."""
        rows = await self._database.fetch(
            CLAIM_SQL,
            worker,
            queues,
            quantity,
            lease_seconds,
            first_lane,
            tenants or None,
            agents,
            room_bytes,
            repeatable=False,  # if the answer is lost, the next heartbeat releases the claimed messages
        )
        *_, kept_hints, passed_rows, is_filled = rows[0]
        self._hint_kept(kept_hints)
        claims = [Claim(*row[:-3]) for row in rows if row[0] is not None]
        return Claimed(claims, passed_rows, is_filled)

    async def append(self, appends: Sequence[Append], patient: bool, hint: str | None = None) -> list[Appended]:
        """Write events to the logs. `patient`: wait a moment for locks instead of answering `busy`. `hint`: a payload
        for the listeners of events, sent with the commit itself (see Notifier)."""
        items, types, data = flatten([append.events for append in appends])
        rows = await self._database.fetch(
            APPEND_SQL if hint is None else f"{APPEND_SQL}, treadle._notify('{EVENTS}', $8)",
            array([append.message_id for append in appends]),
            array([append.lease for append in appends]),
            array([append.first_seq for append in appends]),
            array(items),
            joined(types),
            joined(data),
            patient,
            *([] if hint is None else [hint]),
            timeout=call_timeout(appends),
        )
        return [Appended(*row) for row in rows]

    async def append_and_send(self, append: Append, patient: bool) -> Appended:
        """Write an event and submit the messages that it sends, in one transaction.

        Raises Busy where another transaction holds a thread that it needs (`patient`: for longer than a moment),
        QueueFull and Unprocessable where a sent message is refused.
        """
        row = await self._database.fetchrow(
            APPEND_AND_SEND_SQL,
            append.message_id,
            append.lease,
            append.first_seq,
            *types_and_data(append.events),
            append.sends,
            self._max_queue_size,
            patient,
            timeout=call_timeout([append]),
        )
        assert row is not None
        self._hint_kept(row[-1])
        return Appended(*row[:-1])

    async def finish(
        self, finishes: Sequence[Finish], patient: bool, max_losses: int, hint: str | None = None
    ) -> list[Finished]:
        """Settle attempts whose outcome is plain. `patient` and `hint` as for `append`."""
        outcomes = [finish.outcome for finish in finishes]
        rows = await self._database.fetch(
            FINISH_SQL if hint is None else f"{FINISH_SQL}, treadle._notify('{EVENTS}', $16)",
            array(finish.message_id for finish in finishes),
            array(finish.lease for finish in finishes),
            array(outcome.kind for outcome in outcomes),
            _column(outcome.result for outcome in outcomes),
            _column(outcome.error for outcome in outcomes),
            _column(outcome.traceback for outcome in outcomes),
            _column(outcome.delay_seconds for outcome in outcomes),
            _column(finish.usage for finish in finishes),
            array(finish.first_seq for finish in finishes),
            *flatten([finish.events for finish in finishes]),
            patient,
            max_losses,
            list({finish.thread for finish in finishes if finish.thread is not None}),
            *([] if hint is None else [hint]),
            timeout=call_timeout(finishes),
        )
        self._hint_kept(rows[0][-1])
        return [Finished(*row[:-1]) for row in rows]

    async def conclude(self, finish: Finish, patient: bool, max_losses: int) -> Finished:
        """Settle one attempt whose outcome is not plain. Raises as `append_and_send` does."""
        outcome = finish.outcome
        row = await self._database.fetchrow(
            CONCLUDE_SQL,
            finish.message_id,
            finish.lease,
            outcome.kind,
            outcome.result,
            outcome.error,
            outcome.traceback,
            outcome.delay_seconds,
            finish.usage,
            finish.first_seq,
            *types_and_data(finish.events),
            max_losses,
            outcome.sends,
            outcome.memory,
            outcome.children,
            self._max_queue_size,
            patient,
            timeout=call_timeout([finish]),
        )
        assert row is not None
        self._hint_kept(row[-1])
        return Finished(finish.message_id, row[0])

    async def earlier_results(self, message_id: UUID) -> EarlierResults:
        """What earlier attempts left in the message's log."""
        rows = await self._database.fetch("select type, name, sent, data from treadle.earlier_results($1)", message_id)
        return EarlierResults(
            {row["name"]: row["data"] for row in rows if row["type"] == "step"},
            {row["name"]: row["data"] for row in rows if row["type"] == "input"},
            {row["name"]: row["data"] for row in rows if row["type"] == "parked" and row["data"] is not None},
            {child for row in rows for child in row["sent"] or ()},
            {child for row in rows if row["type"] == "cancelled" for child in row["sent"]},
            sum(row["type"] == "retried" for row in rows),
        )

    async def take_incoming(self, message_id: UUID, lease: UUID) -> list[Any]:
        """The texts (or objects) of the messages that steer this one, also of those that it has taken before."""
        rows = await self._database.fetch("select message from treadle.take_incoming($1, $2)", message_id, lease)
        return [msgspec.json.decode(row["message"]) for row in rows]

    async def use_store(self, message_id: UUID, lease: UUID, calls: str) -> list[Any] | None:
        """The answers of calls of the store of the message's subject; None: the lease has ended. Raises Busy."""
        text = await self._store_calls.run(
            lambda _: self._database.fetchval(
                "select treadle.use_store_for($1, $2, $3::jsonb, patient => false)::text", message_id, lease, calls
            ),
            characters=len(calls),
        )
        return None if text is None else msgspec.json.decode(text, type=list[Any])

    async def children(self, asker: UUID, message_ids: Sequence[UUID]) -> list[SentMessage]:
        """The state of each of these messages, in this order, as the message `asker` may know it: one of another tenant
        or owner is `deleted`, as one that does not exist."""
        rows = await self._database.fetch(
            "select message_id, coalesce(state, 'deleted'), result, error, parent, thread_id"
            " from treadle.children($1, $2) order by n",
            asker,
            message_ids,
        )
        return [SentMessage(*row) for row in rows]

    async def heartbeat(
        self, report: HeartbeatReport, *, interval: float, lease_seconds: float, grace: float | None
    ) -> list[Verdict]:
        """Report that the worker lives and renew its leases; returns the leases that are cancelled or lost.

        `interval`: seconds between heartbeats. `grace`: seconds for which PostgreSQL keeps a claim that the report does
        not name; None: for as long as a claim is in flight.
        """
        rows = await self._database.fetch(
            HEARTBEAT_SQL,
            report.worker,
            report.host,
            report.pid,
            report.queues,
            report.concurrency,
            report.started_at,
            report.server_started,
            list(report.leases),
            list(report.leases.values()),
            interval,
            lease_seconds,
            grace,
            report.agents,
            report.memory_bytes,
            list(report.tenants) or None,
            repeatable=False,  # the held leases may have changed; the next heartbeat comes soon
        )
        return msgspec.convert(rows, list[Verdict])

    async def trace_parents(self, message_ids: Sequence[UUID]) -> dict[UUID, str]:
        """The W3C trace context of the submit of each of these messages that has one."""
        rows = await self._database.fetch("select message_id, traceparent from treadle.trace_parents($1)", message_ids)
        return {row["message_id"]: row["traceparent"] for row in rows}

    async def another_claims(self, worker: str, queue: str, agent: str, tenant: str) -> bool:
        """Whether another worker claims messages of this tenant from this queue and has this agent."""
        found = await self._database.fetchval(
            "select treadle.another_claims($1, $2, $3, $4)", worker, queue, agent, tenant
        )
        return bool(found)

    async def another_replaces(self, worker: str, agent: str) -> bool:
        """Whether another worker has this agent and claims whatever this worker claims."""
        return bool(await self._database.fetchval("select treadle.another_replaces($1, $2)", worker, agent))

    async def stand_in(self, worker: str, lease_seconds: float) -> None:
        """Send a heartbeat in the place of a worker whose process runs, but not its heartbeat; it keeps its leases."""
        await self._database.fetchval("select treadle.stand_in($1, $2)", worker, lease_seconds)

    async def sign_off(self, worker: str) -> None:
        """Remove the worker from the list of workers; other workers claim the messages that it still has."""
        await self._database.fetchval("select treadle.sign_off($1)", worker)

    def _hint_kept(self, kept: str | None) -> None:
        if kept and self._notifier is not None:
            self._notifier.hint_kept(kept)


def call_timeout(items: Sequence[Measured]) -> float:
    """Seconds that a call may take. It grows with the size: on a slow line, a call that is cut off too early would be
    repeated for ever."""
    return COMMAND_TIMEOUT_SECONDS + sum(item.characters for item in items) / SLOWEST_LINE_CHARACTERS_PER_SECOND


def _column(values: Iterable[Any]) -> list[Any] | None:
    """An array for PostgreSQL; None if all values are None."""
    column = list(values)
    return None if column.count(None) == len(column) else column


def flatten(lists: Sequence[Sequence[EventToAppend]]) -> tuple[list[int], list[str], list[str]]:
    """Item numbers (from 1), types and data of all events, in order."""
    items = [item for item, events in enumerate(lists, 1) for _ in events]
    return items, *types_and_data([event for events in lists for event in events])


def types_and_data(events: Sequence[EventToAppend]) -> tuple[list[str], list[str]]:
    """As arrays for PostgreSQL."""
    return [event.type for event in events], [event.data for event in events]
