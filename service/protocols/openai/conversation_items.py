"""The items of a conversation: those with which it began, and the messages of its thread with their answers.

A conversation that begins with items has them in the metadata of its thread, under FIRST.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec

from service.access.principal import Principal
from service.errors import NotFound, Unprocessable
from service.messages.model import decoded
from service.protocols.openai.answers import complete_items, exchange_items
from service.protocols.openai.ids import begun_at, message_of_item
from service.protocols.openai.inputs import check_items
from service.protocols.openai.model import Item
from service.protocols.openai.services import OpenAIServices

FIRST = "openai_items"
MAX_FIRST_ITEMS = 100
MAX_FIRST_BYTES = 1_000_000  # of all of them, as JSON
_ITEMS = UUID("5b0c7f53-93a5-5c3e-9d0b-0b6f8f1f7a11")
NO_ITEMS = f"The metadata {FIRST!r} of the thread are no items: change them before you add further ones."
UNKNOWN_ITEM = "There is no item {!r} in this conversation."


class Begin(NamedTuple):
    """What a conversation began with. `exists`: whether there is a thread for it."""

    exists: bool
    messages: int
    metadata: dict[str, Any]
    first: list[Item]


async def begin_of(services: OpenAIServices, principal: Principal, conversation: str) -> Begin:
    """Raises NotFound."""
    try:
        found = await services.threads.get(principal, conversation)
    except NotFound:
        if begun_at(conversation) is None:
            raise
        return Begin(False, 0, {}, [])
    metadata = dict(msgspec.json.decode(msgspec.json.encode(found.metadata)))
    first = metadata.pop(FIRST, None)
    return Begin(True, found.message_count, metadata, first if _are_items(first) else [])


def _are_items(first: Any) -> bool:
    """A client can change the metadata of a thread by other ways."""
    if not isinstance(first, list) or not all(isinstance(item, dict) for item in first):
        return False
    try:
        check_items(first)
    except Unprocessable:
        return False
    return True


async def said_before(services: OpenAIServices, principal: Principal, conversation: str) -> list[Item]:
    """The first items, for the next response. After the first one, those of the user that had no answer are left out:
    they were a part of its input."""
    try:
        begin = await begin_of(services, principal, conversation)
    except NotFound:
        return []
    first = begin.first
    while begin.messages and first and first[-1].get("role") == "user":
        first = first[:-1]
    return first


async def add_first(
    services: OpenAIServices, principal: Principal, conversation: str, items: Sequence[Item], metadata: Any = None
) -> list[Item]:
    """Let a conversation without responses begin with these further items, and (not None) this metadata. Returns the
    items. Raises NotFound, Unprocessable."""
    check_items(items)
    await begin_of(services, principal, conversation)  # raises NotFound for an unknown id
    first = await services.threads.begin(
        principal, conversation, FIRST, items, metadata, max_items=MAX_FIRST_ITEMS, max_bytes=MAX_FIRST_BYTES
    )
    if not _are_items(first):
        raise Unprocessable(NO_ITEMS)
    return first_items(conversation, first)[len(first) - len(items) :]


def first_items(conversation: str, first: Sequence[Item]) -> list[Item]:
    return complete_items(uuid5(_ITEMS, conversation).hex, first)


async def page_of(
    services: OpenAIServices,
    principal: Principal,
    conversation: str,
    after: str | None,
    limit: int,
    *,
    newest_first: bool,
) -> tuple[list[Item], bool]:
    """Items after the one with the id `after`, and whether there are more: more than `limit` of them where there are so
    many, unless they have more than about JSON_PAGE_BYTES bytes. Raises NotFound, Unprocessable."""
    begin = await begin_of(services, principal, conversation)
    first = first_items(conversation, begin.first)
    thread = (await services.threads.key(principal, conversation))[0] if begin.exists else None
    named = next((number for number, item in enumerate(first) if item["id"] == after), None)
    if named is not None:
        if newest_first:
            return first[:named][::-1], False
        found, more = await _of_messages(services, thread, None, limit, newest_first=False)
        return first[named + 1 :] + found, more
    if thread is None:
        return [], False
    start = await _place_of(services, principal, thread, after) if after else None
    found, more = await _of_messages(services, thread, start, limit, newest_first=newest_first, after=after)
    if newest_first:
        return found + ([] if more else first[::-1]), more
    return (found if after else first + found), more


async def item_of(services: OpenAIServices, principal: Principal, conversation: str, item_id: str) -> Item:
    """Raises NotFound."""
    begin = await begin_of(services, principal, conversation)
    items = first_items(conversation, begin.first)
    message_id = message_of_item(item_id)
    if message_id is not None and all(item["id"] != item_id for item in items):
        message = decoded(await services.messages.status(principal, message_id))
        items = exchange_items(message) if message.thread_id == conversation else []
    for item in items:
        if item["id"] == item_id:
            return item
    raise NotFound(UNKNOWN_ITEM.format(item_id[:100]))


async def _place_of(services: OpenAIServices, principal: Principal, thread: int, item_id: str) -> int:
    """The place in its thread of the message that an item belongs to. Raises Unprocessable."""
    message_id = message_of_item(item_id)
    try:
        if message_id is not None:
            await services.messages.status(principal, message_id)
            place = await services.threads.message_place(message_id)
            if place is not None and place.thread == thread:
                return place.ord
    except NotFound:
        pass
    raise Unprocessable(f"after must be the id of an item: {UNKNOWN_ITEM.format(item_id[:100])}")


async def _of_messages(
    services: OpenAIServices,
    thread: int | None,
    start: int | None,
    limit: int,
    *,
    newest_first: bool,
    after: str | None = None,
) -> tuple[list[Item], bool]:
    """Items from the message at a place on (None: from the begin), behind the item `after`, and whether there are more:
    more than `limit`, or those of a page of messages that its bytes have cut, but at least one."""
    found: list[Item] = []
    place = None if start is None else start + 1 if newest_first else start - 1
    while thread is not None:
        page, place = await services.messages.of_thread(thread, place, limit + 1, newest_first=newest_first)
        for message in page:
            items = exchange_items(decoded(message))
            found += reversed(items) if newest_first else items
        ids = [item["id"] for item in found]
        behind = found[ids.index(after) + 1 :] if after in ids else found
        is_cut = len(page) <= limit
        if place is None or len(behind) > limit or (behind and is_cut):
            return behind, place is not None
    return [], False
