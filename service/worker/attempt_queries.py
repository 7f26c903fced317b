"""What agents read from PostgreSQL, repeated until it answers."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from service.inputs.store import InputSchemas
from service.leases.model import EarlierResults, SentMessage
from service.leases.store import LeaseStore
from service.schemas.model import CheckedRecord
from service.schemas.records import RecordSchemas
from service.threads.store import StoredExchange, StoredTurn, ThreadStore
from service.worker.persistence import persist_lookup


class StoredAttemptQueries:
    """Implements service.worker.execution.WorkerQueries."""

    def __init__(
        self, *, worker: str, leases: LeaseStore, threads: ThreadStore, inputs: InputSchemas, records: RecordSchemas
    ) -> None:
        self._worker = worker
        self._leases = leases
        self._threads = threads
        self._inputs = inputs
        self._records = records

    async def earlier_results(self, message_id: UUID) -> EarlierResults:
        return await persist_lookup("earlier results", lambda: self._leases.earlier_results(message_id))

    async def exchanges(
        self, thread: int, before: int, limit: int, tools: bool, max_bytes: int | None
    ) -> list[StoredExchange]:
        return await persist_lookup("history", lambda: self._threads.exchanges(thread, before, limit, tools, max_bytes))

    async def children(self, asker: UUID, message_ids: Sequence[UUID]) -> list[SentMessage]:
        return await persist_lookup("children", lambda: self._leases.children(asker, message_ids))

    async def turn_in_progress(self, thread: int) -> StoredTurn | None:
        return await persist_lookup("turn in progress", lambda: self._threads.turn_in_progress(thread))

    async def take_incoming(self, message_id: UUID, lease: UUID) -> list[Any]:
        return await persist_lookup("incoming messages", lambda: self._leases.take_incoming(message_id, lease))

    async def use_store(self, message_id: UUID, lease: UUID, calls: str) -> list[Any] | None:
        return await persist_lookup("store", lambda: self._leases.use_store(message_id, lease, calls), is_bounded=False)

    async def misfit(self, agent: str | None, message: Any) -> str | None:
        found = await persist_lookup("input types", lambda: self._inputs.misfit([(agent, message)]))
        return None if found is None else found.sentence

    async def check_record(self, tenant: str, topic: str, value: Any) -> CheckedRecord:
        return await persist_lookup("schema of a topic", lambda: self._records.check(tenant, topic, value))

    async def another_replaces(self, agent: str) -> bool:
        return await persist_lookup("other workers", lambda: self._leases.another_replaces(self._worker, agent))

    async def another_claims(self, queue: str, agent: str, tenant: str) -> bool:
        return await persist_lookup(
            "other workers", lambda: self._leases.another_claims(self._worker, queue, agent, tenant)
        )
