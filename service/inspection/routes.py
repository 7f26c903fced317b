"""/messages: list, look at one in all its parts, cancel or redrive many."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery, JSONBody, QueryParameter

from service.access.principal import Principal
from service.errors import NotFound, Unprocessable
from service.inspection.filters import STATES, parse_before, parse_filter
from service.inspection.model import FILTER_TEXT, Changes, Message, MessagePage, Selection
from service.inspection.store import InspectionStore
from service.limits import MAX_THREAD_ID_CHARS, PAGE_ITEMS
from service.messages import routes as messages_routes
from service.messages.routes import Prefer, Wait, seconds_to_wait
from service.messages.store import MessageStore
from service.messages.waiter import Waiter
from service.params import MessageId, PageLimit, one_thread_id, parse_message_id
from service.refusals import refusals

Text = Annotated[str | None, QueryParameter(min_length=1, max_length=1000, description=FILTER_TEXT)]
Thread = Annotated[
    str | None, QueryParameter(min_length=1, max_length=MAX_THREAD_ID_CHARS, description="the id of a thread")
]
SessionId = Annotated[
    str | None, QueryParameter(min_length=1, max_length=MAX_THREAD_ID_CHARS, description="another name of thread_id")
]
State = Annotated[
    str | None, QueryParameter(name="state", description=f"One of {', '.join(STATES)}; open: queued or processing.")
]
Time = Annotated[str | None, QueryParameter(description="A time (RFC 3339) that ids are compared with.")]


@get(
    "/messages",
    operation_id="listMessages",
    scope="read",
    summary="List messages that satisfy a filter, the newest first",
    description="A message must satisfy each parameter that is given. In a thread, the last place comes first. `error`"
    " is a part of the error, and `q` of the message, the result or the metadata. A call looks at 1,000 messages at"
    " most.",
)
async def list_messages(
    principal: NamedDependency[Principal],
    inspection: NamedDependency[InspectionStore],
    in_state: State = None,
    agent: Text = None,
    queue: Text = None,
    thread_id: Thread = None,
    session_id: SessionId = None,
    parent: Text = None,
    since: Time = None,
    until: Time = None,
    error: Text = None,
    q: Text = None,
    limit: PageLimit = PAGE_ITEMS,
    cursor: FromQuery[str | None] = None,
) -> MessagePage:
    thread = one_thread_id(thread_id, session_id)
    given = {"state": in_state, "agent": agent, "queue": queue, "thread_id": thread, "parent": parent}
    given |= {"since": since, "until": until, "error": error, "q": q}
    return await inspection.page(principal, parse_filter(given), before=parse_before(cursor), limit=limit)


@get(
    "/messages/{message_id:str}",
    operation_id="inspectMessage",
    scope="read",
    stays_open="wait",
    summary="Get a message with its attempts, steps, tools and the messages that it sent",
    description="With `wait`, once it is over or asks a question, at the latest after so many seconds.",
    responses=refusals(NotFound),
)
async def inspect(
    message_id: MessageId,
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    inspection: NamedDependency[InspectionStore],
    waiter: NamedDependency[Waiter],
    wait: Wait = 0.0,
    prefer: Prefer = None,
) -> Message:
    parsed = parse_message_id(message_id)
    if seconds := seconds_to_wait(wait, prefer):
        await waiter.until_over(principal, parsed, seconds)
    return await inspection.message(principal, await messages.status(principal, parsed))


@post(
    "/messages/cancel",
    operation_id="cancelMessages",
    scope="operate",
    status_code=200,
    summary="Count or cancel the open messages that satisfy a filter",
    description="With `preview` (the default) they are only counted. A call takes `limit` of them; `next_cursor` is for"
    " the next call.",
)
async def cancel_many(
    data: JSONBody[Selection],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    inspection: NamedDependency[InspectionStore],
) -> Changes:
    return await _change(principal, inspection, data, data.state or "open", messages.cancel)


@post(
    "/messages/redrive",
    operation_id="redriveMessages",
    scope="operate",
    status_code=200,
    summary="Count or redrive the failed messages that satisfy a filter",
    description="With `preview` (the default) they are only counted. A call takes `limit` of them; `next_cursor` is for"
    " the next call.",
)
async def redrive_many(
    data: JSONBody[Selection],
    principal: NamedDependency[Principal],
    messages: NamedDependency[MessageStore],
    inspection: NamedDependency[InspectionStore],
) -> Changes:
    if data.state is not None:
        raise Unprocessable("state must be left out: only failed messages are redriven.")
    return await _change(principal, inspection, data, "failed", messages.redrive)


async def _change(
    principal: Principal,
    inspection: InspectionStore,
    selection: Selection,
    state: str,
    change: Callable[[Principal, UUID], Coroutine[Any, Any, Any]],
) -> Changes:
    names = ("agent", "queue", "parent", "since", "until", "error", "q")
    given = {name: getattr(selection, name) for name in names} | {"state": state}
    given["thread_id"] = one_thread_id(selection.thread_id, selection.session_id)
    return await inspection.change(
        principal,
        parse_filter(given),
        None if selection.preview else change,
        before=parse_before(selection.cursor),
        limit=selection.limit,
    )


router = Router(
    "/",
    route_handlers=[*messages_routes.handlers, list_messages, inspect, cancel_many, redrive_many],
    tags=["Messages"],
)
