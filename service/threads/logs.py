"""Finds the logs of threads for sockets, each of which asks again and again until its thread exists."""

from typing import TypeAlias

from service.access.principal import Principal
from service.batching import Batcher
from service.threads.store import ThreadStore

LOOKUP_BATCH_THREADS = 500

ThreadLog: TypeAlias = tuple[int, int]  # the surrogate key of a thread, and the last position in its log


class ThreadLogs:
    """Lookups of the same moment share one query."""

    def __init__(self, threads: ThreadStore) -> None:
        self._lookups: Batcher[tuple[Principal, str], ThreadLog | None] = Batcher(
            lambda asked, _: threads.thread_logs(asked), limit=LOOKUP_BATCH_THREADS
        )

    async def find(self, principal: Principal, thread_id: str) -> ThreadLog | None:
        """None where the thread does not exist for the principal. Raises Unavailable, SchemaError."""
        return await self._lookups.submit((principal, thread_id))
