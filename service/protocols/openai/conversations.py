"""/v1/conversations: threads. A thread begins with its first message, so that a new conversation stores nothing."""

from datetime import UTC, datetime
from typing import Any

from litestar import Request
from litestar.params import FromPath, JSONBody

from service.access.principal import Principal
from service.errors import NotFound, Unprocessable
from service.messages.model import decoded
from service.protocols.openai.answers import exchange_items
from service.protocols.openai.calls import Caller, Services, delete, get, page_size, post
from service.protocols.openai.ids import begun_at, new_conversation
from service.protocols.openai.model import Conversation, Deleted, Item, ItemPage, NewConversation
from service.protocols.openai.services import OpenAIServices

NO_ITEMS = "A conversation begins with a response: send the items as the input of one."
NO_METADATA = "A conversation keeps metadata once it has a response: send it then."


@post("/conversations", scope="submit")
async def create_conversation(data: JSONBody[NewConversation | None], principal: Caller) -> Conversation:
    if data is not None and data.items:
        raise Unprocessable(NO_ITEMS)
    if data is not None and data.metadata:
        raise Unprocessable(NO_METADATA)
    conversation = principal.thread_id or new_conversation()
    return Conversation(conversation, int(datetime.now(UTC).timestamp()), {})


@get("/conversations/{conversation:str}", scope="read")
async def get_conversation(conversation: FromPath[str], principal: Caller, openai: Services) -> Conversation:
    return await _find(openai, principal, conversation)


@post("/conversations/{conversation:str}", scope="submit")
async def update_conversation(
    conversation: FromPath[str], data: JSONBody[NewConversation], principal: Caller, openai: Services
) -> Conversation:
    """It replaces the metadata of the thread."""
    if data.metadata is not None:
        try:
            await openai.threads.change(principal, conversation, data.metadata)
        except NotFound:
            if begun_at(conversation) is None:
                raise
            raise Unprocessable(NO_METADATA) from None
    return await _find(openai, principal, conversation)


@delete("/conversations/{conversation:str}", scope="operate")
async def delete_conversation(conversation: FromPath[str], principal: Caller, openai: Services) -> Deleted:
    try:
        await openai.threads.delete(principal, conversation)
    except NotFound:
        if begun_at(conversation) is None:
            raise
    return Deleted(conversation, "conversation.deleted")


@get("/conversations/{conversation:str}/items", scope="read")
async def list_items(
    request: Request[Any, Any, Any], conversation: FromPath[str], principal: Caller, openai: Services
) -> ItemPage:
    """The newest first, unless `order` is `asc`."""
    query = request.query_params
    newest_first = query.get("order") != "asc"
    limit = page_size(query)
    items = await _items(openai, principal, conversation, query.get("after"), limit, newest_first=newest_first)
    page = items[:limit]
    first, last = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return ItemPage(page, len(items) > limit, first, last)


HANDLERS = [create_conversation, get_conversation, update_conversation, delete_conversation, list_items]


async def _find(services: OpenAIServices, principal: Principal, conversation: str) -> Conversation:
    """Raises NotFound."""
    begun, metadata = begun_at(conversation), {}
    try:
        thread = await services.threads.get(principal, conversation)
        begun, metadata = thread.created_at, thread.metadata
    except NotFound:
        if begun is None:
            raise
    return Conversation(conversation, int(begun.timestamp()), metadata)


async def _items(
    services: OpenAIServices,
    principal: Principal,
    conversation: str,
    after: str | None,
    limit: int,
    *,
    newest_first: bool,
) -> list[Item]:
    """More than `limit` items after the one with the id `after`, where there are so many."""
    try:
        thread, _ = await services.threads.key(principal, conversation)
    except NotFound:
        if begun_at(conversation) is None:
            raise
        return []
    found: list[Item] = []
    place: int | None = None
    seen = after is None
    while True:
        page, place = await services.messages.of_thread(thread, place, limit, newest_first=newest_first)
        for message in page:
            items = exchange_items(decoded(message))
            for item in reversed(items) if newest_first else items:
                if seen:
                    found.append(item)
                seen = seen or item["id"] == after
        if place is None or len(found) > limit:
            return found
