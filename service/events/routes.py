"""The event log over HTTP: as a stream that a client can resume from any event, and as JSON pages."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter, QueryParameter

from service.access.principal import Principal
from service.errors import NotFound, Refused
from service.events.model import Event, EventPage, Page
from service.events.pages import LIVE_PAGE_BYTES
from service.events.sse import Streams
from service.events.store import EventStore
from service.events.thread_ids import is_of_log, parse_id
from service.limits import JSON_PAGE_BYTES, MAX_SEQ, PAGE_ITEMS
from service.params import MessageId, PageLimit, parse_event_id, parse_message_id
from service.refusals import refusals
from service.sse_frames import MEDIA_TYPE, reconnect_later
from service.streams import sse
from service.threads.store import ThreadStore

CURSOR_NAME = "after (or Last-Event-ID)"
After = Annotated[
    str | None,
    QueryParameter(
        name="after", description="The id of the last event received. The header Last-Event-ID takes precedence."
    ),
]
LastEventId = Annotated[
    str | None,
    HeaderParameter(
        name="Last-Event-ID", description="The id of the last event received. EventSource sends it when it reconnects."
    ),
]


@get(
    "/messages/{message_id:str}/stream",
    operation_id="streamMessage",
    scope="read",
    is_stream=True,
    summary="Stream the events of a message",
    description="Server-sent events, until the final event of the message.",
    media_type=MEDIA_TYPE,
    responses={
        204: ResponseSpec(None, description="The message is over and the client has its last event."),
        **refusals(NotFound),
    },
)
async def stream_message(
    message_id: MessageId,
    principal: NamedDependency[Principal],
    events: NamedDependency[EventStore],
    streams: NamedDependency[Streams],
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response[Any]:
    parsed, cursor = parse_message_id(message_id), parse_event_id(last_event_id or after, CURSOR_NAME, MAX_SEQ)
    try:
        if not cursor:
            return sse(await streams.open_message(principal, parsed, lambda: _first_page(principal, events, parsed)))
        end = await events.log_end(principal, parsed)
    except Refused:
        raise
    except Exception as error:
        return sse(reconnect_later(error))
    if end is None:
        raise _unknown_message(parsed)
    last, over = end
    if over and cursor >= last:
        return Response(None, status_code=204)
    return sse(streams.message(principal, parsed, cursor))


@get(
    "/threads/{thread_id:str}/stream",
    operation_id="streamThread",
    scope="read",
    is_stream=True,
    summary="Stream the events of a thread",
    description="Server-sent events of all messages of the thread, with ids of their own. The stream ends only when the"
    " thread is deleted. An id that the thread's log does not have is answered with the event gap and the whole log.",
    media_type=MEDIA_TYPE,
    responses=refusals(NotFound),
)
async def stream_thread(
    thread_id: FromPath[str],
    principal: NamedDependency[Principal],
    threads: NamedDependency[ThreadStore],
    streams: NamedDependency[Streams],
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response[Any]:
    seen = parse_id(last_event_id or after, CURSOR_NAME)
    try:
        place = await threads.place(principal, thread_id, seen.position)
    except Refused:
        raise
    except Exception as error:
        return sse(reconnect_later(error))
    if is_of_log(seen, place):
        return sse(streams.thread(principal, place.thread, seen.position))
    return sse(streams.thread(principal, place.thread, 0, lost=seen.position))


@get(
    "/messages/{message_id:str}/events",
    operation_id="listEvents",
    scope="read",
    summary="List the events of a message so far",
    responses=refusals(NotFound),
)
async def list_events(
    message_id: MessageId,
    principal: NamedDependency[Principal],
    event_pages: NamedDependency[EventStore],
    after: Annotated[
        int, QueryParameter(ge=0, le=MAX_SEQ, description="the seq of the last event received, a whole number from 0")
    ] = 0,
    limit: PageLimit = PAGE_ITEMS,
) -> EventPage:
    parsed = parse_message_id(message_id)
    page = await event_pages.page(principal, parsed, after, limit, JSON_PAGE_BYTES)
    if page is None:
        raise _unknown_message(parsed)
    listed = [
        Event(entry.seq, entry.type, msgspec.Raw(entry.data.encode()), entry.created_at) for entry in page.entries
    ]
    over = page.entries[-1].last if page.entries else await _is_over(principal, event_pages, parsed, after)
    return EventPage(parsed, listed, listed[-1].seq if listed else after, over)


router = Router("/", route_handlers=[stream_message, stream_thread, list_events], tags=["Events"])


async def _first_page(principal: Principal, events: EventStore, message_id: UUID) -> Page:
    page = await events.page(principal, message_id, 0, page_bytes=LIVE_PAGE_BYTES)  # `Pages` bounds who reads more
    if page is None:
        raise _unknown_message(message_id)
    return page


def _unknown_message(message_id: UUID) -> NotFound:
    return NotFound(f"There is no message {message_id}.")


async def _is_over(principal: Principal, events: EventStore, message_id: UUID, after: int) -> bool:
    end = await events.log_end(principal, message_id)
    return end is not None and end[1] and after >= end[0]
