"""The event log over HTTP: as a stream that resumes anywhere, and as JSON."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from service.errors import NotFound, Refused, TreadleError
from service.events.model import Event, EventPage
from service.events.sse import COME_BACK, HEADERS, MEDIA_TYPE, Streams
from service.events.store import EventStore
from service.limits import MAX_POSITION, MAX_SEQ, PAGE_ITEMS
from service.params import MessageId, PageLimit, parse_event_id, parse_message_id
from service.threads.store import ThreadStore

log = logging.getLogger(__name__)

After = Annotated[
    str | None, QueryParameter(name="after", description="The id of the last event seen; Last-Event-ID goes before it.")
]


@get(
    "/messages/{message_id:str}/stream",
    summary="A message's events as they happen",
    media_type=MEDIA_TYPE,
    responses={204: ResponseSpec(None, description="It is over, and its last event was seen.")},
)
async def stream_message(
    request: Request[Any, Any, Any],
    message_id: MessageId,
    events: NamedDependency[EventStore],
    streams: NamedDependency[Streams],
    after: After = None,
) -> Response[Any]:
    """Server-sent events; ends after the terminal event. 204 where the message is over and its last event was seen."""
    parsed, cursor = parse_message_id(message_id), _cursor(request, after, MAX_SEQ)
    try:
        end = await events.end(parsed)
    except Refused:
        raise
    except Exception as error:
        return _trouble(error)
    if end is None:
        raise NotFound(f"There is no message {parsed}.")
    last, over = end
    if over and cursor >= last:
        return Response(None, status_code=204)
    # A cursor beyond the log is of a log that a failover lost: what comes next is new to its reader all the same.
    return _stream(streams.message(parsed, min(cursor, last)))


@get("/threads/{thread_id:str}/stream", summary="A thread's events as they happen", media_type=MEDIA_TYPE)
async def stream_thread(
    request: Request[Any, Any, Any],
    thread_id: FromPath[str],
    threads: NamedDependency[ThreadStore],
    streams: NamedDependency[Streams],
    after: After = None,
) -> Response[Any]:
    """Server-sent events of all messages of the thread, under one cursor; it never ends."""
    cursor = _cursor(request, after, MAX_POSITION)
    try:
        thread, _ = await threads.key(thread_id)
    except Refused:
        raise
    except Exception as error:
        return _trouble(error)
    return _stream(streams.thread(thread, cursor))


@get("/messages/{message_id:str}/events", summary="A message's events so far")
async def list_events(
    message_id: MessageId,
    events: NamedDependency[EventStore],
    after: Annotated[
        int, QueryParameter(ge=0, le=MAX_SEQ, description="the seq of the last event seen: a whole number from 0")
    ] = 0,
    limit: PageLimit = PAGE_ITEMS,
) -> EventPage:
    parsed = parse_message_id(message_id)
    [entries] = await events.read_messages([(parsed, after)], limit)
    if entries is None:
        raise NotFound(f"There is no message {parsed}.")
    listed = [Event(entry.seq, entry.type, msgspec.Raw(entry.data.encode()), entry.created_at) for entry in entries]
    over = entries[-1].last if entries else await _is_over(events, parsed, after)
    return EventPage(parsed, listed, listed[-1].seq if listed else after, over)


async def _is_over(events: EventStore, message_id: UUID, after: int) -> bool:
    end = await events.end(message_id)
    return end is not None and end[1] and after >= end[0]


def _cursor(request: Request[Any, Any, Any], after: str | None, largest: int) -> int:
    """The last event that the client has seen. A browser that reconnects sends Last-Event-ID, so that goes first."""
    return parse_event_id(request.headers.get("last-event-id") or after, "after (or Last-Event-ID)", largest)


def _stream(parts: AsyncIterator[bytes]) -> Stream:
    return Stream(parts, media_type=MEDIA_TYPE, headers=HEADERS)


def _trouble(error: Exception) -> Stream:
    """Clients of EventSource give a stream up for ever when it answers anything but 200."""
    level = error.log_level if isinstance(error, TreadleError) else logging.WARNING
    log.log(level, "stream cannot be opened", extra={"error": str(error)})

    async def come_back() -> AsyncIterator[bytes]:
        yield COME_BACK

    return _stream(come_back())
