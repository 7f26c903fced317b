"""The calls of remote workers: each method calls one SQL function, which checks that the worker is the tenant's."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.db.notifier import Notifier
from service.db.pool import Database
from service.errors import LeaseLost
from service.leases.model import (
    AppendStatus,
    Claim,
    EventToAppend,
    FinishStatus,
    Outcome,
    RemoteClaim,
    SentMessage,
)
from service.leases.store import call_timeout, flatten, types_and_data
from service.messages.model import Priority
from service.protocols.leases.earlier import Earlier, Sender
from service.protocols.leases.model import HeldLease, LeaseVerdict

# One row without a message where nothing was claimed.
CLAIM_SQL = f"""
    select {", ".join(f"c.{name}" for name in Claim.__struct_fields__)}, treadle.remote_trace_parent(c.message_id),
        treadle._kept_hints()
    from (values (1)) v left join treadle.remote_claim($1, $2, $3, treadle._keep_hints($4::float8), $5, $6) c on true"""
APPEND_SQL = """
    select status, cancel_requested, thread, former_seq, seconds, queue, agent, attempt, created_at
    from treadle.remote_append_events($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
APPEND_AND_SEND_SQL = """
    select status, cancel_requested, thread, former_seq, treadle._kept_hints()
    from treadle.remote_append_step($1, $2, $3, $4, $5, $6, $7, $8, $9, treadle._keep_hints($10::boolean))"""
ENDED = """
    status, thread, queue, subscription, repeated, agent, created_at, former_seq, seconds, chunked, delay_seconds"""
CONCLUDE_SQL = f"""
    select {ENDED}, treadle._kept_hints()
    from treadle.remote_end_attempt(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, treadle._keep_hints($17::boolean))"""
CHILDREN_SQL = """
    select child, coalesce(state, 'deleted') as state, result, error, parent, thread_id
    from treadle.remote_children($1, $2, $3, $4, $5)
    order by n"""
SENDER_SQL = """
    select thread, ord, depth, delivery, traceparent, sent, cancelled, retries
    from treadle.remote_sender($1, $2, $3, $4)"""
FINISH_SQL = f"""
    select {ENDED}, treadle._kept_hints()
    from treadle.remote_end_attempts(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, treadle._keep_hints($15::boolean), $16, $17,
        $18)"""


LEASE_LOST_DETAIL = "The worker does not hold this lease: the message was lost, cancelled or ended. Drop this attempt."


class RemoteAppend(msgspec.Struct, frozen=True):
    tenant: str
    worker: str
    message_id: UUID
    lease: UUID
    first_seq: int
    events: Sequence[EventToAppend]

    @property
    def sends(self) -> str | None:
        """Only an append of one event sends."""
        return self.events[0].sends

    @property
    def characters(self) -> int:
        return sum(event.characters for event in self.events)


class RemoteFinish(msgspec.Struct, frozen=True):
    tenant: str
    worker: str
    message_id: UUID
    lease: UUID
    attempt: int
    outcome: Outcome
    usage: str | None
    first_seq: int
    events: Sequence[EventToAppend]

    @property
    def characters(self) -> int:
        return self.outcome.characters + sum(event.characters for event in self.events)


class RemoteAppended(NamedTuple):
    """`former_seq`: where the log ended before. `seconds`: since the claim. The message is named where its attempt had
    written no chunk before (and where it sends nothing)."""

    status: AppendStatus
    cancel_requested: bool
    thread: int | None
    former_seq: int | None
    seconds: float | None = None
    queue: str | None = None
    agent: str | None = None
    attempt: int | None = None
    created_at: datetime | None = None


class RemoteFinished(NamedTuple):
    """`repeated`: the attempt had ended before. `former_seq`: where the log ended before; `seconds`: since the claim;
    `chunked`: the attempt had written a chunk; all three of an attempt that ends now. `delay_seconds`: until the next
    attempt. The message is not named where the tenant has no such message."""

    status: FinishStatus
    thread: int | None
    queue: str | None
    subscription: str | None
    repeated: bool
    agent: str | None
    created_at: datetime | None
    former_seq: int | None
    seconds: float | None
    chunked: bool
    delay_seconds: float | None


class RemoteLeaseStore:
    """`retry_base` and `retry_max`: seconds of the backoff where a worker names no delay. `notifier` sends the hints of
    claims, sends and ends after their commits."""

    def __init__(
        self,
        database: Database,
        notifier: Notifier,
        *,
        max_losses: int,
        retry_base: float,
        retry_max: float,
        max_queue_size: int | None,
    ) -> None:
        self._database = database
        self._notifier = notifier
        self._rules = (max_losses, retry_base, retry_max)
        self._max_losses = max_losses
        self._max_queue_size = max_queue_size

    async def register(
        self,
        *,
        tenant: str,
        worker: str,
        host: str,
        pid: int,
        agents: Sequence[dict[str, Any]],
        concurrency: int,
        may_register: bool,
    ) -> list[str]:
        """The queues from which the worker claims. Raises Forbidden for an agent that it may not register."""
        queues: list[str] = await self._database.fetchval(
            "select treadle.remote_register($1, $2, $3, $4, $5::jsonb, $6, $7)",
            tenant,
            worker,
            host,
            pid,
            msgspec.json.encode(agents).decode(),
            concurrency,
            may_register,
        )
        return queues

    async def group(self, tenant: str, worker: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The queues and the agents of a worker. Raises NotFound."""
        row = await self._database.fetchrow("select queues, agents from treadle.remote_worker($1, $2)", tenant, worker)
        assert row is not None
        return tuple(row["queues"]), tuple(row["agents"])

    async def claim(
        self,
        *,
        tenant: str,
        worker: str,
        quantity: int,
        lease_seconds: float,
        first_lane: Priority,
        room_bytes: int | None = None,
    ) -> list[RemoteClaim]:
        """About `room_bytes`, which only the last message exceeds; None: any number. Raises NotFound for a worker that
        is not registered."""
        rows = await self._database.fetch(
            CLAIM_SQL,
            tenant,
            worker,
            quantity,
            lease_seconds,
            first_lane,
            room_bytes,
            repeatable=False,  # if the answer is lost, a heartbeat releases the claimed messages
        )
        self._notifier.hint_kept(rows[0][-1])
        return [RemoteClaim(*row[:-1]) for row in rows if row[0] is not None]

    async def earlier(self, message_ids: Sequence[UUID]) -> dict[UUID, Earlier]:
        """What earlier attempts left, by message."""
        found: dict[UUID, Earlier] = {}
        query = "select message_id, type, name, data from treadle.remote_earlier($1)"
        for row in await self._database.fetch(query, message_ids):
            earlier = found.setdefault(row["message_id"], Earlier())
            kinds = {"step": earlier.steps, "input": earlier.inputs, "parked": earlier.questions}
            kinds[row["type"]][row["name"]] = msgspec.Raw(row["data"].encode())
        return found

    async def sender(self, tenant: str, worker: str, message_id: UUID, lease: UUID) -> Sender:
        """Raises LeaseLost where the worker does not hold the lease."""
        row = await self._database.fetchrow(SENDER_SQL, tenant, worker, message_id, lease)
        if row is None:
            raise LeaseLost(LEASE_LOST_DETAIL)
        return Sender(*row)

    async def overloaded_seconds(self, tenant: str, worker: str, message_id: UUID, lease: UUID) -> float:
        """For how long the attempts of the message have found a service overloaded."""
        sql = "select treadle.remote_overloaded($1, $2, $3, $4)"
        return await self._database.fetchval(sql, tenant, worker, message_id, lease) or 0.0

    async def children(
        self, tenant: str, worker: str, message_id: UUID, lease: UUID, children: Sequence[UUID]
    ) -> list[SentMessage]:
        """The messages that an attempt waits for, in this order. Raises LeaseLost."""
        rows = await self._database.fetch(CHILDREN_SQL, tenant, worker, message_id, lease, children)
        if len(rows) < len(children):
            raise LeaseLost(LEASE_LOST_DETAIL)
        return [SentMessage(*row) for row in rows]

    async def append_and_send(self, append: RemoteAppend, patient: bool) -> RemoteAppended:
        """Raises Busy, QueueFull, and Unprocessable where what it sends is refused."""
        row = await self._database.fetchrow(
            APPEND_AND_SEND_SQL,
            append.tenant,
            append.worker,
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
        self._notifier.hint_kept(row[-1])
        return RemoteAppended(*row[:-1])

    async def conclude(self, finish: RemoteFinish, patient: bool) -> RemoteFinished:
        """Raises as append_and_send."""
        outcome = finish.outcome
        row = await self._database.fetchrow(
            CONCLUDE_SQL,
            finish.tenant,
            finish.worker,
            finish.message_id,
            finish.lease,
            finish.attempt,
            outcome.kind,
            outcome.result,
            finish.usage,
            finish.first_seq,
            *types_and_data(finish.events),
            self._max_losses,
            outcome.sends,
            outcome.memory,
            outcome.children,
            self._max_queue_size,
            patient,
            timeout=call_timeout([finish]),
        )
        assert row is not None
        self._notifier.hint_kept(row[-1])
        return RemoteFinished(*row[:-1])

    async def append(self, appends: Sequence[RemoteAppend], patient: bool) -> list[RemoteAppended]:
        rows = await self._database.fetch(
            APPEND_SQL,
            *_keys(appends),
            [append.first_seq for append in appends],
            *flatten([append.events for append in appends]),
            patient,
            timeout=call_timeout(appends),
        )
        return [RemoteAppended(*row) for row in rows]

    async def finish(self, finishes: Sequence[RemoteFinish], patient: bool) -> list[RemoteFinished]:
        outcomes = [finish.outcome for finish in finishes]
        rows = await self._database.fetch(
            FINISH_SQL,
            *_keys(finishes),
            [finish.attempt for finish in finishes],
            [outcome.kind for outcome in outcomes],
            [outcome.result for outcome in outcomes],
            [outcome.error for outcome in outcomes],
            [outcome.delay_seconds for outcome in outcomes],
            [finish.usage for finish in finishes],
            [finish.first_seq for finish in finishes],
            *flatten([finish.events for finish in finishes]),
            patient,
            *self._rules,
            timeout=call_timeout(finishes),
        )
        self._notifier.hint_kept(rows[0][-1])
        return [RemoteFinished(*row[:-1]) for row in rows]

    async def heartbeat(
        self,
        *,
        tenant: str,
        worker: str,
        leases: Sequence[HeldLease],
        interval: float,
        lease_seconds: float,
        grace: float,
    ) -> list[LeaseVerdict]:
        """Raises NotFound for a worker that is not registered, or was taken for dead."""
        rows = await self._database.fetch(
            "select message_id, lease, verdict from treadle.remote_heartbeat($1, $2, $3, $4, $5, $6, $7)",
            tenant,
            worker,
            [held.message_id for held in leases],
            [held.lease for held in leases],
            interval,
            lease_seconds,
            grace,
        )
        return msgspec.convert(rows, list[LeaseVerdict])

    async def sign_off(self, tenant: str, worker: str) -> None:
        """Remove the worker; other workers claim the messages that it still has. A repeat does nothing."""
        await self._database.fetchval("select treadle.remote_sign_off($1, $2)", tenant, worker)


def _keys(items: Sequence[RemoteAppend] | Sequence[RemoteFinish]) -> tuple[list[Any], ...]:
    """Tenants, workers, message ids and leases, as arrays."""
    return (
        [item.tenant for item in items],
        [item.worker for item in items],
        [item.message_id for item in items],
        [item.lease for item in items],
    )
