"""What agents ask of the database: asked again until it answers."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from service.leases.store import Child, LeaseStore, Recorded
from service.threads.store import Exchange, ThreadStore, UnderWay

Answer = TypeVar("Answer")


class Persist(Protocol):
    """Repeats a call until PostgreSQL has answered; `what` names it in the log."""

    async def __call__(self, what: str, call: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer: ...


class StoredLookups:
    """Implements service.worker.context.Lookups."""

    def __init__(self, leases: LeaseStore, threads: ThreadStore, persist: Persist) -> None:
        self._leases = leases
        self._threads = threads
        self._persist = persist

    async def recorded(self, message_id: UUID) -> Recorded:
        return await self._persist("recorded", lambda: self._leases.recorded(message_id))

    async def exchanges(self, thread: int, before: int, limit: int, tools: bool) -> list[Exchange]:
        return await self._persist("history", lambda: self._threads.exchanges(thread, before, limit, tools))

    async def children(self, message_ids: Sequence[UUID]) -> list[Child]:
        return await self._persist("children", lambda: self._leases.children(message_ids))

    async def under_way(self, thread: int) -> UnderWay | None:
        return await self._persist("under way", lambda: self._threads.under_way(thread))
