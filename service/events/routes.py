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

from service.errors import Invalid, NotFound, Refused, TreadleError
from service.events.model import Event, EventPage
from service.events.sse import COME_BACK, HEADERS, MEDIA_TYPE, Streams
from service.events.store import EventStore
from service.messages.routes import MessageId, parse_id
from service.threads.store import ThreadStore

log = logging.getLogger(__name__)

LIMIT = 2**31  # of a seq
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
    parsed, cursor = parse_id(message_id), _cursor(request, after, LIMIT)
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
    cursor = _cursor(request, after, 2**63)
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
        int, QueryParameter(ge=0, lt=LIMIT, description="the seq of the last event seen: a whole number from 0")
    ] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=1000, description="a whole number from 1 to 1000")] = 100,
) -> EventPage:
    parsed = parse_id(message_id)
    [entries] = await events.read_messages([(parsed, after)], limit)
    if entries is None:
        raise NotFound(f"There is no message {parsed}.")
    listed = [Event(entry.seq, entry.type, msgspec.Raw(entry.data.encode()), entry.created_at) for entry in entries]
    over = entries[-1].last if entries else await _is_over(events, parsed, after)
    return EventPage(parsed, listed, listed[-1].seq if listed else after, over)


async def _is_over(events: EventStore, message_id: UUID, after: int) -> bool:
    end = await events.end(message_id)
    return end is not None and end[1] and after >= end[0]


def _cursor(request: Request[Any, Any, Any], after: str | None, limit: int) -> int:
    text = request.headers.get("last-event-id") or after or "0"
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < limit):
        raise Invalid("after and Last-Event-ID must be the id of an event: a whole number.")
    return int(text)


def _stream(parts: AsyncIterator[bytes]) -> Stream:
    return Stream(parts, media_type=MEDIA_TYPE, headers=HEADERS)


def _trouble(error: Exception) -> Stream:
    """Clients of EventSource give a stream up for ever when it answers anything but 200."""
    level = error.log_level if isinstance(error, TreadleError) else logging.WARNING
    log.log(level, "stream cannot be opened", extra={"error": str(error)})

    async def come_back() -> AsyncIterator[bytes]:
        yield COME_BACK

    return _stream(come_back())
