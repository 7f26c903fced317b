"""Reads the log of one message for a client: to its end, or as far as it goes."""

from collections.abc import AsyncIterator
from uuid import UUID

from service.access.principal import Principal
from service.errors import NotFound, Unauthorized, Unavailable
from service.events.model import Entry
from service.protocols.openai.services import OpenAIServices
from service.sse_frames import Silence
from service.waiting import wait_for

STOPPING = "The server stops. The work goes on; ask again for its answer."


class Interrupted(Unavailable):
    """The stream ends before the answer does; the client may resume it."""


async def follow(
    services: OpenAIServices, principal: Principal, message_id: UUID, after: int
) -> AsyncIterator[list[Entry]]:
    """The entries after seq `after`, as they come; an empty list after each silence of KEEPALIVE_INTERVAL. It does not
    end by itself. Raises NotFound, Unauthorized, Interrupted, Unavailable, SchemaError."""
    settings, feed = services.settings, services.feed
    silence, behind = Silence(settings.keepalive_interval), False
    with feed.subscribe(message_id) as wake:
        while True:
            if feed.closing:
                raise Interrupted(STOPPING)
            if reason := services.access.end_of(principal):
                raise Unauthorized(reason)
            wake.clear()
            page = await feed.read(message_id, after, behind=behind)
            if page is None:
                raise NotFound("The response was deleted.")
            if page.log_end is not None:
                raise Interrupted("A failover of the database lost the end of the log. Read the response again.")
            if page.entries:
                after = page.entries[-1].cursor
                yield page.entries
                silence.reset()
            behind = page.more
            if not behind:
                await wait_for(wake, min(settings.poll_interval, settings.keepalive_interval))
                if silence.is_too_long():
                    yield []


async def read(services: OpenAIServices, message_id: UUID, after: int) -> AsyncIterator[Entry]:
    """The entries after seq `after` that are there. Raises NotFound, Unavailable, SchemaError."""
    behind = True
    while behind:
        page = await services.feed.read(message_id, after, behind=True)
        if page is None:
            raise NotFound("The response was deleted.")
        for entry in page.entries:
            yield entry
            after = entry.cursor
        behind = page.more
