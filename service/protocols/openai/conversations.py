"""/v1/conversations: threads. A new conversation stores nothing, unless it has metadata or items."""

from datetime import UTC, datetime
from typing import Any

from litestar import Request
from litestar.params import FromPath, JSONBody

from service.access.authenticator import require
from service.access.principal import Principal
from service.errors import NotFound
from service.protocols.openai.calls import Caller, Services, delete, get, page_size, post
from service.protocols.openai.conversation_items import add_first, begin_of, item_of, page_of
from service.protocols.openai.ids import begun_at, new_conversation
from service.protocols.openai.model import Conversation, Deleted, Item, ItemPage, NewConversation
from service.protocols.openai.services import OpenAIServices


@post("/conversations", scope="submit")
async def create_conversation(
    data: JSONBody[NewConversation | None], principal: Caller, openai: Services
) -> Conversation:
    conversation = principal.thread_id or new_conversation()
    wanted = data or NewConversation()
    if wanted.items or wanted.metadata:
        await add_first(openai, principal, conversation, wanted.items or [], wanted.metadata)
    begun = begun_at(conversation) or datetime.now(UTC)
    return Conversation(conversation, int(begun.timestamp()), wanted.metadata or {})


@get("/conversations/{conversation:str}", scope="read")
async def get_conversation(conversation: FromPath[str], principal: Caller, openai: Services) -> Conversation:
    return await _find(openai, principal, conversation)


@post("/conversations/{conversation:str}", scope="submit")
async def update_conversation(
    conversation: FromPath[str], data: JSONBody[NewConversation], principal: Caller, openai: Services
) -> Conversation:
    """It replaces the metadata of the thread."""
    if data.metadata is not None:
        await add_first(openai, principal, conversation, [], data.metadata)
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
    items, more = await page_of(openai, principal, conversation, query.get("after"), limit, newest_first=newest_first)
    return _page(items[:limit], has_more=more or len(items) > limit)


@post("/conversations/{conversation:str}/items", scope="submit")
async def create_items(
    conversation: FromPath[str], data: JSONBody[NewConversation], principal: Caller, openai: Services
) -> ItemPage:
    """Before its first response."""
    require(principal, "read")
    return _page(await add_first(openai, principal, conversation, data.items or []), has_more=False)


@get("/conversations/{conversation:str}/items/{item_id:str}", scope="read")
async def get_item(
    conversation: FromPath[str], item_id: FromPath[str], principal: Caller, openai: Services
) -> dict[str, Any]:
    return await item_of(openai, principal, conversation, item_id)


HANDLERS = [
    *(create_conversation, get_conversation, update_conversation, delete_conversation),
    *(list_items, create_items, get_item),
]


def _page(items: list[Item], *, has_more: bool) -> ItemPage:
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return ItemPage(items, has_more, first, last)


async def _find(services: OpenAIServices, principal: Principal, conversation: str) -> Conversation:
    """Raises NotFound."""
    begin, begun = await begin_of(services, principal, conversation), begun_at(conversation)
    if begun is None:
        begun = (await services.threads.get(principal, conversation)).created_at
    return Conversation(conversation, int(begun.timestamp()), begin.metadata)
