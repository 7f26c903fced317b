"""Waits until a message is over, without a stream: one reader of its log, as a stream has."""

import time
from uuid import UUID

from service.access.principal import Principal
from service.errors import NotFound
from service.events.answers import is_question
from service.events.feed import Feed
from service.events.store import EventStore
from service.waiting import wait_for


class Waiter:
    """`poll_interval` in seconds: how long a lost hint can delay a waiter."""

    def __init__(self, feed: Feed, events: EventStore, *, poll_interval: float) -> None:
        self._feed = feed
        self._events = events
        self._poll_interval = poll_interval

    async def until_over(self, principal: Principal, message_id: UUID, seconds: float) -> bool:
        """Whether the message is over within so many seconds. It does not wait for one that asks a question, nor while
        this process stops. Raises NotFound."""
        deadline, behind = time.monotonic() + seconds, False
        with self._feed.subscribe(message_id) as wake:
            if (end := await self._events.log_end(principal, message_id)) is None:
                raise NotFound(f"There is no message {message_id}.")
            after, over = end
            after = max(after - 1, 0)  # the last event may be the question
            while not over and not self._feed.closing and (left := deadline - time.monotonic()) > 0:
                wake.clear()
                page = await self._feed.read(message_id, after, behind=behind)
                if page is None:
                    raise NotFound(f"There is no message {message_id}.")
                if page.entries:
                    after, over = page.entries[-1].cursor, page.entries[-1].last
                    if not over and not page.more and is_question(page.entries[-1]):
                        return False
                behind = page.more
                if not over and not behind:
                    await wait_for(wake, min(left, self._poll_interval))
            return over
