"""The calls of remote workers: each method calls one SQL function, which checks that the worker is the tenant's."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.db.pool import Database
from service.leases.model import AppendStatus, Claim, EventToAppend, FinishStatus, Outcome
from service.leases.store import call_timeout
from service.messages.model import Priority
from service.protocols.leases.model import HeldLease, LeaseVerdict

CLAIM_SQL = f"select {', '.join(Claim.__struct_fields__)} from treadle.remote_claim($1, $2, $3, $4, $5)"
APPEND_SQL = """
    select status, cancel_requested, thread from treadle.remote_append($1, $2, $3, $4, $5, $6, $7, $8, $9)"""
FINISH_SQL = """
    select status, thread, queue, subscription
    from treadle.remote_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"""


class RemoteAppend(msgspec.Struct, frozen=True):
    tenant: str
    worker: str
    message_id: UUID
    lease: UUID
    first_seq: int
    events: Sequence[EventToAppend]

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
    status: AppendStatus
    cancel_requested: bool
    thread: int | None


class RemoteFinished(NamedTuple):
    status: FinishStatus
    thread: int | None
    queue: str | None
    subscription: str | None


class RemoteLeaseStore:
    """`retry_base` and `retry_max`: seconds of the backoff where a worker names no delay."""

    def __init__(self, database: Database, *, max_losses: int, retry_base: float, retry_max: float) -> None:
        self._database = database
        self._rules = (max_losses, retry_base, retry_max)

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
        self, *, tenant: str, worker: str, quantity: int, lease_seconds: float, first_lane: Priority
    ) -> list[Claim]:
        """Raises NotFound for a worker that is not registered."""
        rows = await self._database.fetch(
            CLAIM_SQL,
            tenant,
            worker,
            quantity,
            lease_seconds,
            first_lane,
            repeatable=False,  # if the answer is lost, a heartbeat releases the claimed messages
        )
        return [Claim(*row) for row in rows]

    async def steps(self, message_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
        """The results of the steps that earlier attempts have finished, by message and name."""
        found: dict[UUID, dict[str, Any]] = {}
        rows = await self._database.fetch("select message_id, name, result from treadle.remote_steps($1)", message_ids)
        for row in rows:
            found.setdefault(row["message_id"], {})[row["name"]] = msgspec.Raw(row["result"].encode())
        return found

    async def append(self, appends: Sequence[RemoteAppend], patient: bool) -> list[RemoteAppended]:
        rows = await self._database.fetch(
            APPEND_SQL,
            *_keys(appends),
            [append.first_seq for append in appends],
            *_flatten([append.events for append in appends]),
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
            *_flatten([finish.events for finish in finishes]),
            patient,
            *self._rules,
            timeout=call_timeout(finishes),
        )
        return [RemoteFinished(*row) for row in rows]

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
        await self._database.fetchval("select treadle.remote_sign_off($1, $2)", tenant, worker)


def _keys(items: Sequence[RemoteAppend] | Sequence[RemoteFinish]) -> tuple[list[Any], ...]:
    """Tenants, workers, message ids and leases, as arrays."""
    return (
        [item.tenant for item in items],
        [item.worker for item in items],
        [item.message_id for item in items],
        [item.lease for item in items],
    )


def _flatten(lists: Sequence[Sequence[EventToAppend]]) -> tuple[list[int], list[str], list[str]]:
    """Item numbers (from 1), types and data of all events, in order."""
    return (
        [item for item, events in enumerate(lists, 1) for _ in events],
        [event.type for events in lists for event in events],
        [event.data for events in lists for event in events],
    )
