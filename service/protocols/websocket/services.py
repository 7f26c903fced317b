"""What the chats of one API process share."""

from typing import TypeAlias

from service.access.principal import Principal
from service.batching import Batcher
from service.config import Settings
from service.events.feed import Feed
from service.messages.store import MessageStore
from service.threads.store import ThreadStore

LOG_LOOKUP_BATCH_THREADS = 500

ThreadLog: TypeAlias = tuple[int, int]  # the surrogate key of a thread, and the last position in its log


class ChatServices:
    def __init__(
        self,
        settings: Settings,
        feed: Feed,
        messages: MessageStore,
        threads: ThreadStore,
    ) -> None:
        self.settings = settings
        self.feed = feed
        self.messages = messages
        self.threads = threads
        self._logs: Batcher[tuple[Principal, str], ThreadLog | None] = Batcher(
            lambda asked, _: threads.thread_logs(asked), limit=LOG_LOOKUP_BATCH_THREADS
        )

    async def find_log(self, principal: Principal, thread_id: str) -> ThreadLog | None:
        """None where the thread does not exist for the principal. Lookups of the same moment share one query."""
        return await self._logs.submit((principal, thread_id))
