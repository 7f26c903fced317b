"""What the handlers of the dialect share."""

from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from service.access.principal import Principal
from service.config import Settings
from service.events.follower import Follower
from service.messages.model import Question, Status
from service.messages.store import MessageStore
from service.queues.store import QueueStore
from service.threads.store import ThreadStore


class OpenAIServices(NamedTuple):
    settings: Settings
    follower: Follower
    messages: MessageStore
    threads: ThreadStore
    queues: QueueStore

    async def message(self, principal: Principal, message_id: UUID) -> Status:
        """Raises NotFound."""
        return decoded(await self.messages.status(principal, message_id))


def decoded(message: Status) -> Status:
    """With the values of its JSON, which the store leaves as they are."""
    fields: dict[str, Any] = {
        name: msgspec.json.decode(value)
        for name in ("user_message", "result", "metadata", "usage")
        if isinstance(value := getattr(message, name), msgspec.Raw)
    }
    if isinstance(message.asks, msgspec.Raw):
        fields["asks"] = msgspec.json.decode(message.asks, type=Question)
    return msgspec.structs.replace(message, **fields)
