"""Reads the log of one message for a client of another protocol: to its end, or as far as it goes."""

from collections.abc import AsyncIterator
from uuid import UUID

from service.access.authenticator import Access, check_access
from service.access.principal import Principal
from service.errors import NotFound, Unavailable
from service.events.feed import Feed
from service.events.model import Entry
from service.sse_frames import Silence

MESSAGE_DELETED_DETAIL = "The message was deleted."
SERVER_STOPS_DETAIL = "The server stops. The work goes on; ask again for its answer."


class Interrupted(Unavailable):
    """The stream ends before the answer does; the client may resume it."""


class Follower:
    """`keepalive_interval` in seconds."""

    def __init__(self, feed: Feed, access: Access, *, keepalive_interval: float) -> None:
        self._feed = feed
        self._access = access
        self._keepalive_interval = keepalive_interval

    async def follow(self, principal: Principal, message_id: UUID, after: int) -> AsyncIterator[list[Entry]]:
        """The entries after seq `after`, as they come; an empty list after each silence of `keepalive_interval`. It
        does not end by itself. The caller has looked the message up for its principal. Raises NotFound, Unauthorized,
        Interrupted, Unavailable, SchemaError."""
        silence = Silence(self._keepalive_interval)
        with self._feed.follow(message_id) as reader:
            while True:
                if self._feed.closing:
                    raise Interrupted(SERVER_STOPS_DETAIL)
                check_access(self._access, principal)
                page = await reader.next(after, silence.seconds_left())
                if page is None:
                    raise NotFound(MESSAGE_DELETED_DETAIL)
                if page.ends_before is not None:
                    raise Interrupted("A failover of the database lost the end of the log. Read the answer again.")
                if page.entries:
                    after = page.entries[-1].cursor
                    yield page.entries
                    silence.reset()
                if silence.is_too_long():
                    yield []

    async def read(self, message_id: UUID, after: int) -> AsyncIterator[Entry]:
        """The entries after seq `after` that are there. Raises NotFound, Unavailable, SchemaError."""
        with self._feed.follow(message_id) as reader:
            more = True
            while more:
                page = await reader.next(after, 0)
                if page is None:
                    raise NotFound(MESSAGE_DELETED_DETAIL)
                for entry in page.entries:
                    yield entry
                    after = entry.cursor
                more = page.more
