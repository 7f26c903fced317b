"""/v1/responses."""

from typing import Any

from litestar import Request, Response
from litestar.params import FromPath, JSONBody

from service.access.authenticator import require
from service.errors import Busy, Conflict, Unprocessable
from service.params import IdempotencyKey
from service.protocols.openai.answers import input_items
from service.protocols.openai.begin import Begun, begin_response
from service.protocols.openai.calls import Answer, Caller, Services, delete, get, page_size, post
from service.protocols.openai.errors import carried_out
from service.protocols.openai.find import find_response
from service.protocols.openai.model import Deleted, Item, ItemPage, NewResponse
from service.protocols.openai.services import DELETED
from service.protocols.openai.streams import CANCEL_SECONDS, FROM_START, ResponseReader
from service.streams import json_stream, sse

MAX_NUMBER_DIGITS = 15
STILL_OPEN = "The response is not over: cancel it first, or wait for its end."


@post("/responses", scope="submit", stays_open=True)
async def create_response(
    data: JSONBody[NewResponse], principal: Caller, openai: Services, idempotency_key: IdempotencyKey = None
) -> Answer:
    if data.background and data.store is False:
        raise Unprocessable("A background response needs store: true.")
    if data.stream or not data.background:
        require(principal, "read")
    begun = await begin_response(openai, principal, data, idempotency_key)
    reader = ResponseReader(openai, principal, begun)
    if data.stream:
        return sse(reader.events(FROM_START))
    if data.background:
        with carried_out(begun.response_id, is_repeatable=begun.is_repeatable):
            return Response(await reader.snapshot())
    return json_stream(reader.body())


@get("/responses/{response_id:str}", scope="read", stays_open=True)
async def get_response(
    request: Request[Any, Any, Any], response_id: FromPath[str], principal: Caller, openai: Services
) -> Answer:
    begun = await find_response(openai, principal, response_id)
    reader = ResponseReader(openai, principal, begun)
    if request.query_params.get("stream", "").lower() == "true":
        return sse(reader.events(_starting_after(request)))
    return Response(await reader.snapshot())


@post("/responses/{response_id:str}/cancel", scope="submit")
async def cancel_response(response_id: FromPath[str], principal: Caller, openai: Services) -> Answer:
    """It may be repeated, and does nothing to a response that is over."""
    require(principal, "read")  # the answer has the response
    begun = await find_response(openai, principal, response_id)
    with carried_out(begun.response_id, is_repeatable=True):
        await openai.messages.cancel_unless_over(principal, begun.response_id.message_id)
        return Response(await ResponseReader(openai, principal, begun).settled(CANCEL_SECONDS))


@delete("/responses/{response_id:str}", scope="operate")
async def delete_response(response_id: FromPath[str], principal: Caller, openai: Services) -> Deleted:
    """With its thread, where it is alone there. A conversation of several messages keeps what was said."""
    begun = await find_response(openai, principal, response_id)
    thread_id = begun.message.thread_id
    if thread_id is not None and (await openai.threads.key(principal, thread_id))[1] == 1:
        await openai.threads.delete(principal, thread_id)
        return Deleted(response_id, "response")
    try:
        await openai.messages.mark(principal, begun.response_id.message_id, {DELETED: True})
    except Busy:
        raise
    except Conflict:
        raise Unprocessable(STILL_OPEN) from None
    return Deleted(response_id, "response")


@get("/responses/{response_id:str}/input_items", scope="read")
async def list_input_items(
    request: Request[Any, Any, Any], response_id: FromPath[str], principal: Caller, openai: Services
) -> ItemPage:
    begun = await find_response(openai, principal, response_id)
    return _page(request.query_params, _input_of(begun))


HANDLERS = [create_response, get_response, cancel_response, delete_response, list_input_items]


def _input_of(begun: Begun) -> list[Item]:
    return input_items(begun.message)


def _page(query: Any, items: list[Item]) -> ItemPage:
    """The newest first, unless `order` is `asc`."""
    if query.get("order") != "asc":
        items = items[::-1]
    ids = [item["id"] for item in items]
    if after := query.get("after"):
        if after not in ids:
            raise Unprocessable(f"after must be the id of an item of this response, not {after[:100]!r}.")
        items = items[ids.index(after) + 1 :]
    page = items[: page_size(query)]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return ItemPage(page, len(items) > len(page), first, last)


def _starting_after(request: Request[Any, Any, Any]) -> int:
    """Raises Unprocessable."""
    text = request.query_params.get("starting_after")
    if text is None or text == "":
        return FROM_START
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_NUMBER_DIGITS):
        raise Unprocessable("starting_after must be the sequence_number of the last event received.")
    return int(text)
