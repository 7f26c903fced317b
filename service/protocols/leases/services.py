"""What the routes of remote workers share."""

from collections.abc import Sequence
from typing import Annotated, Protocol
from uuid import UUID

import msgspec
from litestar.params import PathParameter

from service.access.authenticator import Access
from service.config import Settings
from service.db.notifier import Notifier
from service.db.pool import Database
from service.errors import Unprocessable
from service.inputs.store import InputSchemas
from service.leases.model import lease_seconds
from service.leases.store import LeaseStore
from service.protocols.leases.claims import RemoteClaims
from service.protocols.leases.earlier import Sender
from service.protocols.leases.moments import RemoteMoments
from service.protocols.leases.sends import Placed
from service.protocols.leases.store import RemoteLeaseStore
from service.protocols.leases.traces import MakeTraces, NoRemoteTraces
from service.protocols.leases.writer import RemoteWriter
from service.schemas.records import RecordSchemas
from service.schemas.registry import Registry
from service.schemas.sandboxed.checks import SchemaChecks
from service.schemas.store import SchemaStore
from service.threads.store import ThreadStore

WorkerId = Annotated[str, PathParameter(description="The id that the registration returned.")]


class UnderLease(Protocol):
    """The body of a call about a message that the worker has claimed."""

    @property
    def message_id(self) -> UUID: ...

    @property
    def lease(self) -> UUID: ...


class RemoteServices:
    """What remote workers call; `inputs` and `records` check what they send and publish, `threads` has their
    histories."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        notifier: Notifier,
        access: Access,
        schema_checks: SchemaChecks,
        *,
        make_traces: MakeTraces | None = None,
    ) -> None:
        self.inputs = InputSchemas(database)
        self.records = RecordSchemas(Registry(SchemaStore(database), schema_checks))
        self.threads = ThreadStore(database, lists=database)
        self.lease_seconds = lease_seconds(settings.worker_timeout)
        self.store = RemoteLeaseStore(
            database,
            notifier,
            max_losses=settings.max_losses,
            retry_base=settings.retry_base_seconds,
            retry_max=settings.retry_max_seconds,
            max_queue_size=settings.max_queue_size,
        )
        self.traces = make_traces(LeaseStore(database).trace_parents) if make_traces else NoRemoteTraces()
        moments = RemoteMoments()
        self.claims = RemoteClaims(
            self.store, access, moments, lease_seconds=self.lease_seconds, poll_interval=settings.poll_interval
        )
        self.writer = RemoteWriter(self.store, notifier, moments)

    async def check(self, tenant: str, placed: Sequence[Placed]) -> list[Placed]:
        """What an attempt sends; a record has the id of its schema. Raises Unprocessable for a message that does not
        fit the input of its agent, and for a record that does not fit the schema of its topic."""
        rows = [one.row for one in placed]
        messages = [(row.get("agent"), row["message"]) for row in rows if "topic" not in row]
        if messages and (misfit := await self.inputs.misfit(messages)):
            raise Unprocessable(f"A message to send is refused: {misfit.sentence}")
        if topics := {row["topic"] for row in rows if "topic" in row}:
            await self.records.prepare(tenant, topics)
        return [one if "topic" not in one.row else await self._check_record(tenant, one) for one in placed]

    async def _check_record(self, tenant: str, placed: Placed) -> Placed:
        row = placed.row
        checked = await self.records.check(tenant, row["topic"], row["value"])
        if checked.problem is not None:
            raise Unprocessable(f"A record to publish to {row['topic']!r} is refused: {checked.problem}")
        stored = {} if checked.value is msgspec.UNSET else {"value": checked.value}
        return placed._replace(row={**row, "schema_id": checked.schema_id, **stored})

    async def sender(self, tenant: str, worker: str, call: UnderLease) -> Sender:
        """The message under the lease that the call names. Raises LeaseLost."""
        return await self.store.sender(tenant, worker, call.message_id, call.lease)
