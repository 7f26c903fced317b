"""References to items that this server gave: clients send them in place of what was said earlier."""

from collections.abc import Sequence
from uuid import UUID

from service.access.principal import Principal
from service.errors import NotFound, Unprocessable
from service.events.answers import as_text
from service.limits import HISTORY_EXCHANGES
from service.messages.model import Status, decoded
from service.protocols.openai.ids import message_of_item
from service.protocols.openai.model import Item
from service.protocols.openai.services import OpenAIServices

REFERENCE = "item_reference"
INPUT = "item_"  # begins the id of an item of the input
UNKNOWN_ITEM_DETAIL = "There is no item {!r} on this server; send the item itself."


async def resolve_references(services: OpenAIServices, principal: Principal, items: Sequence[Item]) -> list[Item]:
    """The items, with the answers and messages that references name in their place: those of the last
    HISTORY_EXCHANGES messages, as in the history of a thread. References to function calls stay, and mean nothing here:
    outputs name their calls. Raises NotFound, Unprocessable."""
    named = [_message_of(item) for item in items]
    wanted = list(dict.fromkeys(message_id for message_id in reversed(named) if message_id is not None))
    if not wanted:
        return list(items)
    found = await _find(services, principal, wanted[:HISTORY_EXCHANGES])
    resolved: list[Item] = []
    said: set[tuple[UUID, bool]] = set()
    for item, message_id in zip(reversed(items), reversed(named), strict=True):
        if message_id is None:
            resolved.append(item)
            continue
        given, message = item["id"].startswith(INPUT), found.get(message_id)
        # An answer may have had several items, with calls and their outputs between them: the last one stands for all.
        if message is not None and (given or message.state == "completed") and (message_id, given) not in said:
            said.add((message_id, given))
            resolved.append(_item(message, given=given))
    return resolved[::-1]


def _message_of(item: Item) -> UUID | None:
    """None for an item that is no reference, or that refers to a function call. Raises Unprocessable."""
    if item.get("type") != REFERENCE:
        return None
    item_id = item.get("id")
    if isinstance(item_id, str):
        if item_id.startswith("fc_"):
            return None
        if (message_id := message_of_item(item_id)) is not None:
            return message_id
    raise Unprocessable(UNKNOWN_ITEM_DETAIL.format(str(item_id)[:100]))


async def _find(services: OpenAIServices, principal: Principal, wanted: list[UUID]) -> dict[UUID, Status]:
    """The first of them that have JSON_PAGE_BYTES bytes together. Raises NotFound."""
    found = {status.message_id: decoded(status) for status in await services.messages.statuses(principal, wanted)}
    last = max((wanted.index(message_id) for message_id in found), default=len(wanted) - 1)
    for message_id in wanted[:last]:
        if message_id not in found:
            raise NotFound(f"There is no item of the message {message_id}.")
    if not found:
        raise NotFound(f"There is no item of the message {wanted[0]}.")
    return found


def _item(message: Status, *, given: bool) -> Item:
    if given:
        return {"type": "message", "role": "user", "content": as_text(message.user_message)}
    return {"type": "message", "role": "assistant", "content": as_text(message.result)}
