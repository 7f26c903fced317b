"""/threads: list, look at, delete."""

import base64
import binascii
from datetime import datetime, timedelta
from urllib.parse import urlencode

from litestar import Response, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from service.errors import Invalid
from service.limits import MAX_POSITION, PAGE_ITEMS
from service.messages.store import MessageStore
from service.params import PageLimit
from service.threads.model import Thread, ThreadMessages, ThreadSummary, Usage
from service.threads.store import ThreadStore


@get("/threads", summary="Threads, the last active first")
async def list_threads(
    threads: NamedDependency[ThreadStore], limit: PageLimit = PAGE_ITEMS, cursor: FromQuery[str | None] = None
) -> Response[list[ThreadSummary]]:
    """The next page's address is in the Link header."""
    page, following = await threads.newest(limit, _parse_cursor(cursor))
    headers = {}
    if following is not None:
        query = urlencode({"limit": limit, "cursor": _format_cursor(following)})
        headers["Link"] = f'</threads?{query}>; rel="next"'
    return Response(page, headers=headers)


@get("/threads/{thread_id:str}", summary="A thread and how many of its messages are in which state")
async def get_thread(thread_id: FromPath[str], threads: NamedDependency[ThreadStore]) -> Thread:
    return await threads.get(thread_id)


@get("/threads/{thread_id:str}/usage", summary="What a thread's messages cost in all")
async def get_usage(thread_id: FromPath[str], threads: NamedDependency[ThreadStore]) -> Usage:
    return await threads.usage(thread_id)


@get("/threads/{thread_id:str}/messages", summary="A thread's messages in its order")
async def list_messages(
    thread_id: FromPath[str],
    threads: NamedDependency[ThreadStore],
    messages: NamedDependency[MessageStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> ThreadMessages:
    after = 0
    if cursor is not None:
        if not cursor.isdecimal() or len(cursor) > 18:
            raise Invalid("cursor is not one that this service gave out.")
        after = int(cursor)
    thread, total = await threads.key(thread_id)
    page = await messages.of_thread(thread, after, limit + 1)
    following = str(page[limit - 1][0]) if len(page) > limit else None
    return ThreadMessages(thread_id, total, [status for _, status in page[:limit]], following)


@delete("/threads/{thread_id:str}", status_code=204, summary="Delete a thread with its messages and events")
async def delete_thread(thread_id: FromPath[str], threads: NamedDependency[ThreadStore]) -> None:
    """What is queued never runs, what runs is cancelled."""
    await threads.delete(thread_id)


def _format_cursor(position: tuple[datetime, int]) -> str:
    return base64.urlsafe_b64encode(f"{position[0].isoformat()} {position[1]}".encode()).decode()


def _parse_cursor(text: str | None) -> tuple[datetime, int] | None:
    if text is None:
        return None
    try:
        moment, _, thread = base64.urlsafe_b64decode(text).decode().partition(" ")
        position = datetime.fromisoformat(moment), int(thread)
    except (binascii.Error, ValueError):
        raise Invalid("cursor is not one that this service gave out.") from None
    if position[0].utcoffset() != timedelta(0) or not 0 <= position[1] <= MAX_POSITION:
        raise Invalid("cursor is not one that this service gave out.")
    return position
