"""Waits until a message is over, without a stream: one reader of its log, as a stream has."""

import time
from uuid import UUID

from service.access.authenticator import Access, check_access
from service.access.principal import Principal
from service.errors import NotFound
from service.events.answers import is_question
from service.events.feed import Feed
from service.events.store import EventStore
from service.messages import waiter


class Waiter(waiter.Waiter):
    def __init__(self, feed: Feed, events: EventStore, access: Access) -> None:
        self._feed = feed
        self._events = events
        self._access = access

    async def until_over(self, principal: Principal, message_id: UUID, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        with self._feed.follow(message_id) as reader:
            if (end := await self._events.log_end(principal, message_id)) is None:
                raise NotFound(f"There is no message {message_id}.")
            after, over = end
            after = max(after - 1, 0)  # the last event may be the question
            while not over and not self._feed.closing and (left := deadline - time.monotonic()) > 0:
                page = await reader.next(after, left)
                check_access(self._access, principal)
                if page is None:
                    raise NotFound(f"There is no message {message_id}.")
                if page.ends_before is not None:  # a failover lost the end of the log
                    after = max(page.ends_before - 1, 0)
                if page.entries:
                    after, over = page.entries[-1].cursor, page.entries[-1].last
                    if not over and not page.more and is_question(page.entries[-1]):
                        return False
            return over
