"""Reads the log of one message for a client of another protocol: to its end, or as far as it goes."""

from collections.abc import AsyncIterator
from uuid import UUID

from service.access.authenticator import Access
from service.access.principal import Principal
from service.errors import NotFound, Unauthorized, Unavailable
from service.events.feed import Feed
from service.events.model import Entry
from service.sse_frames import Silence
from service.waiting import wait_for

DELETED = "The message was deleted."
STOPPING = "The server stops. The work goes on; ask again for its answer."


class Interrupted(Unavailable):
    """The stream ends before the answer does; the client may resume it."""


class Follower:
    """Intervals in seconds."""

    def __init__(self, feed: Feed, access: Access, *, poll_interval: float, keepalive_interval: float) -> None:
        self._feed = feed
        self._access = access
        self._poll_interval = poll_interval
        self._keepalive_interval = keepalive_interval

    async def follow(self, principal: Principal, message_id: UUID, after: int) -> AsyncIterator[list[Entry]]:
        """The entries after seq `after`, as they come; an empty list after each silence of `keepalive_interval`. It
        does not end by itself. The caller has looked the message up for its principal. Raises NotFound, Unauthorized,
        Interrupted, Unavailable, SchemaError."""
        silence, behind = Silence(self._keepalive_interval), False
        with self._feed.subscribe(message_id) as wake:
            while True:
                if self._feed.closing:
                    raise Interrupted(STOPPING)
                if reason := self._access.end_of(principal):
                    raise Unauthorized(reason)
                wake.clear()
                page = await self._feed.read(message_id, after, behind=behind)
                if page is None:
                    raise NotFound(DELETED)
                if page.log_end is not None:
                    raise Interrupted("A failover of the database lost the end of the log. Read the answer again.")
                if page.entries:
                    after = page.entries[-1].cursor
                    yield page.entries
                    silence.reset()
                behind = page.more
                if not behind:
                    await wait_for(wake, min(self._poll_interval, self._keepalive_interval))
                    if silence.is_too_long():
                        yield []

    async def read(self, message_id: UUID, after: int) -> AsyncIterator[Entry]:
        """The entries after seq `after` that are there. Raises NotFound, Unavailable, SchemaError."""
        behind = True
        while behind:
            page = await self._feed.read(message_id, after, behind=True)
            if page is None:
                raise NotFound(DELETED)
            for entry in page.entries:
                yield entry
                after = entry.cursor
            behind = page.more
