"""/threads: list, read, change, delete."""

from typing import Annotated

from litestar import Response, Router, delete, get, patch
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from service.access.principal import Principal
from service.cursors import format_position, parse_cursor, parse_position
from service.errors import Conflict, LimitReached, NotFound, Unprocessable
from service.limits import PAGE_ITEMS
from service.messages.store import MessageStore
from service.messages.validation import validate_metadata
from service.params import NEXT_PAGE, PageLimit, next_page
from service.refusals import refusals
from service.threads.model import Thread, ThreadChanges, ThreadMessages, ThreadSummary, Usage
from service.threads.store import ThreadStore

SearchText = Annotated[
    str | None, QueryParameter(min_length=1, max_length=1000, description="a text that is not empty")
]


@get(
    "/threads",
    operation_id="listThreads",
    scope="read",
    summary="List threads, the most recently active first",
    description="With `q`, those that have this text in their id, metadata or last message. A call looks at 1,000"
    " threads at most, so that a page may be empty although another one follows.",
    response_headers=[
        NEXT_PAGE,
        ResponseHeader(
            name="Searched-Until",
            description="Where the call has stopped: the last activity of the last thread that it looked at.",
            documentation_only=True,
        ),
    ],
)
async def list_threads(
    principal: NamedDependency[Principal],
    threads: NamedDependency[ThreadStore],
    q: SearchText = None,
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> Response[list[ThreadSummary]]:
    """The Link header has the address of the next page."""
    before = None if cursor is None else parse_position(cursor)
    if q is not None and "\0" in q:
        raise Unprocessable("q must not contain the NUL character (U+0000).")
    page, next_position = await threads.page(principal, limit, before, text=q)
    headers = {}
    if next_position is not None:
        headers["Searched-Until"] = next_position.at.isoformat().replace("+00:00", "Z")
        headers |= next_page("/threads", limit=limit, q=q, cursor=format_position(next_position))
    return Response(page, headers=headers)


@get(
    "/threads/{thread_id:str}",
    operation_id="getThread",
    scope="read",
    summary="Get a thread, with the number of its messages in each state",
    responses=refusals(NotFound),
)
async def get_thread(
    thread_id: FromPath[str], principal: NamedDependency[Principal], threads: NamedDependency[ThreadStore]
) -> Thread:
    return await threads.get(principal, thread_id)


@get(
    "/threads/{thread_id:str}/usage",
    operation_id="getThreadUsage",
    scope="read",
    summary="Get the total usage of a thread's messages",
    responses=refusals(NotFound),
)
async def get_usage(
    thread_id: FromPath[str], principal: NamedDependency[Principal], threads: NamedDependency[ThreadStore]
) -> Usage:
    return await threads.usage(principal, thread_id)


@get(
    "/threads/{thread_id:str}/messages",
    operation_id="listThreadMessages",
    scope="read",
    summary="List the messages of a thread in their order",
    responses=refusals(NotFound),
)
async def list_messages(
    thread_id: FromPath[str],
    principal: NamedDependency[Principal],
    threads: NamedDependency[ThreadStore],
    messages: NamedDependency[MessageStore],
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> ThreadMessages:
    after = 0 if cursor is None else parse_cursor(cursor)
    thread, total = await threads.key(principal, thread_id)
    page, last = await messages.of_thread(thread, after, limit)
    return ThreadMessages(thread_id, total, page, None if last is None else str(last))


@patch(
    "/threads/{thread_id:str}",
    operation_id="changeThread",
    scope="submit",
    summary="Change the metadata of a thread",
    responses=refusals(NotFound, Conflict, LimitReached),
)
async def change_thread(
    thread_id: FromPath[str],
    data: JSONBody[ThreadChanges],
    principal: NamedDependency[Principal],
    threads: NamedDependency[ThreadStore],
) -> Thread:
    validate_metadata(data.metadata)
    await threads.change(principal, thread_id, data.metadata)
    return await threads.get(principal, thread_id)


@delete(
    "/threads/{thread_id:str}",
    operation_id="deleteThread",
    scope="operate",
    status_code=204,
    summary="Delete a thread with its messages and events",
    description="Queued messages of the thread never run; running ones are cancelled.",
    responses=refusals(NotFound, Conflict),
)
async def delete_thread(
    thread_id: FromPath[str], principal: NamedDependency[Principal], threads: NamedDependency[ThreadStore]
) -> None:
    await threads.delete(principal, thread_id)


router = Router(
    "/",
    route_handlers=[list_threads, get_thread, get_usage, list_messages, change_thread, delete_thread],
    tags=["Threads"],
)
