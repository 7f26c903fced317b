"""The event log over HTTP: as a stream that a client can resume from any event, and as JSON pages."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from service.errors import NotFound, Refused, TreadleError
from service.events.model import Cursor, Event, EventPage
from service.events.sse import HEADERS, MEDIA_TYPE, RECONNECT, Streams
from service.events.store import EventStore
from service.limits import MAX_POSITION, MAX_SEQ, PAGE_ITEMS
from service.params import MessageId, PageLimit, parse_event_id, parse_message_id
from service.threads.store import ThreadStore

log = logging.getLogger(__name__)

After = Annotated[
    str | None,
    QueryParameter(
        name="after", description="The id of the last event received. The header Last-Event-ID takes precedence."
    ),
]


@get(
    "/messages/{message_id:str}/stream",
    summary="Stream the events of a message",
    description="Server-sent events, until the final event of the message.",
    media_type=MEDIA_TYPE,
    responses={204: ResponseSpec(None, description="The message is over and the client has its last event.")},
)
async def stream_message(
    request: Request[Any, Any, Any],
    message_id: MessageId,
    events: NamedDependency[EventStore],
    streams: NamedDependency[Streams],
    after: After = None,
) -> Response[Any]:
    parsed, cursor = parse_message_id(message_id), _cursor(request, after, MAX_SEQ)
    try:
        end = await events.log_end(parsed)
    except Refused:
        raise
    except Exception as error:
        return _reconnect_later(error)
    if end is None:
        raise _unknown_message(parsed)
    last, over = end
    if over and cursor >= last:
        return Response(None, status_code=204)
    # A cursor beyond the log belongs to a log that a failover lost: every event is new to this client.
    return _stream(streams.message(parsed, min(cursor, last)))


@get(
    "/threads/{thread_id:str}/stream",
    summary="Stream the events of a thread",
    description="Server-sent events of all messages of the thread, with ids of their own. The stream ends only when the"
    " thread is deleted.",
    media_type=MEDIA_TYPE,
)
async def stream_thread(
    request: Request[Any, Any, Any],
    thread_id: FromPath[str],
    threads: NamedDependency[ThreadStore],
    streams: NamedDependency[Streams],
    after: After = None,
) -> Response[Any]:
    cursor = _cursor(request, after, MAX_POSITION)
    try:
        thread, _ = await threads.key(thread_id)
    except Refused:
        raise
    except Exception as error:
        return _reconnect_later(error)
    return _stream(streams.thread(thread, cursor))


@get("/messages/{message_id:str}/events", summary="List the events of a message so far")
async def list_events(
    message_id: MessageId,
    events: NamedDependency[EventStore],
    after: Annotated[
        int, QueryParameter(ge=0, le=MAX_SEQ, description="the seq of the last event received, a whole number from 0")
    ] = 0,
    limit: PageLimit = PAGE_ITEMS,
) -> EventPage:
    parsed = parse_message_id(message_id)
    [entries] = await events.read([Cursor(parsed, after)], limit)
    if entries is None:
        raise _unknown_message(parsed)
    listed = [Event(entry.seq, entry.type, msgspec.Raw(entry.data.encode()), entry.created_at) for entry in entries]
    over = entries[-1].last if entries else await _is_over(events, parsed, after)
    return EventPage(parsed, listed, listed[-1].seq if listed else after, over)


router = Router("/", route_handlers=[stream_message, stream_thread, list_events], tags=["Events"])


def _unknown_message(message_id: UUID) -> NotFound:
    return NotFound(f"There is no message {message_id}.")


async def _is_over(events: EventStore, message_id: UUID, after: int) -> bool:
    end = await events.log_end(message_id)
    return end is not None and end[1] and after >= end[0]


def _cursor(request: Request[Any, Any, Any], after: str | None, largest: int) -> int:
    """The last event that the client has received. A browser that reconnects repeats the address and adds
    Last-Event-ID, so the header takes precedence."""
    return parse_event_id(request.headers.get("last-event-id") or after, "after (or Last-Event-ID)", largest)


def _stream(parts: AsyncIterator[bytes]) -> Stream:
    return Stream(parts, media_type=MEDIA_TYPE, headers=HEADERS)


def _reconnect_later(error: Exception) -> Stream:
    """A stream that only tells its client to reconnect: EventSource gives up for good on any answer but 200."""
    level = error.log_level if isinstance(error, TreadleError) else logging.WARNING
    log.log(level, "stream cannot be opened", extra={"error": str(error)})

    async def reconnect() -> AsyncIterator[bytes]:
        yield RECONNECT

    return _stream(reconnect())
