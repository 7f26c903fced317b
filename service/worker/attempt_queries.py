"""What agents read from PostgreSQL, repeated until it answers."""

from collections.abc import Sequence
from uuid import UUID

from service.leases.model import Recorded, SentMessage
from service.leases.store import LeaseStore
from service.threads.store import Exchange, ThreadStore, UnderWay
from service.worker.persistence import persist


class StoredAttemptQueries:
    """Implements service.worker.context.backend.AttemptQueries."""

    def __init__(self, leases: LeaseStore, threads: ThreadStore) -> None:
        self._leases = leases
        self._threads = threads

    async def recorded(self, message_id: UUID) -> Recorded:
        return await persist("recorded", lambda: self._leases.recorded(message_id))

    async def exchanges(self, thread: int, before: int, limit: int, tools: bool) -> list[Exchange]:
        return await persist("history", lambda: self._threads.exchanges(thread, before, limit, tools))

    async def children(self, message_ids: Sequence[UUID]) -> list[SentMessage]:
        return await persist("children", lambda: self._leases.children(message_ids))

    async def under_way(self, thread: int) -> UnderWay | None:
        return await persist("under way", lambda: self._threads.under_way(thread))
