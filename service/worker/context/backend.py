"""What a context needs of its attempt and of PostgreSQL, in the worker or in an agent's own process.

In the worker, `Execution` is the backend, `EventBuffer` its events and `StoredAttemptQueries` its queries. In an
agent's own process, `WorkerLink` is all three, and passes each call to the worker.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from service.leases.model import EarlierResults, EventToAppend, Outcome, SentMessage
from service.schemas.model import CheckedRecord
from service.threads.store import StoredExchange, StoredTurn


class EventSink(Protocol):
    """The way of events to the message's log."""

    async def put(self, event: EventToAppend) -> None:
        """Buffer an event; waits while too much is unsent. The data of a `chunk` is its text, as JSON."""

    async def save(self, event: EventToAppend) -> None:
        """Put an event, and wait until it is in the log."""


class AttemptQueries(Protocol):
    """What a context reads from PostgreSQL."""

    async def earlier_results(self, message_id: UUID) -> EarlierResults: ...

    async def exchanges(
        self, thread: int, before: int, limit: int, tools: bool, max_bytes: int | None
    ) -> Sequence[StoredExchange]: ...

    async def children(self, asker: UUID, message_ids: Sequence[UUID]) -> Sequence[SentMessage]: ...

    async def turn_in_progress(self, thread: int) -> StoredTurn | None: ...

    async def take_incoming(self, message_id: UUID, lease: UUID) -> Sequence[Any]: ...

    async def use_store(self, message_id: UUID, lease: UUID, calls: str) -> list[Any] | None:
        """The answers of calls, a JSON array; None: the lease has ended."""

    async def misfit(self, agent: str | None, message: Any) -> str | None:
        """Why the message does not fit the input of the agent (None: of the default agent); None if it fits."""

    async def check_record(self, tenant: str, topic: str, value: Any) -> CheckedRecord:
        """Whether the value fits the schema of the topic."""


class ContextBackend(Protocol):
    @property
    def events(self) -> EventSink: ...

    @property
    def queries(self) -> AttemptQueries: ...

    @property
    def stopped(self) -> bool:
        """Whether the attempt must end."""

    def park(self, outcome: Outcome) -> None:
        """End the attempt now with this outcome, which names what the message waits for."""

    def count(self, usage: str, step: str) -> None:
        """Set usage, a JSON object, for the step in which it was counted (empty: none). Called from any thread."""

    async def instance(self, make: Callable[[], Any]) -> Any:
        """The agent's instance for the thread; made now if the worker has no instance yet."""
