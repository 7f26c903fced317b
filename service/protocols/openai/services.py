"""What the handlers of the dialect share."""

from typing import NamedTuple
from uuid import UUID

from service.access.principal import Principal
from service.config import Settings
from service.errors import NotFound
from service.events.follower import Follower
from service.messages.model import Status, decoded
from service.messages.store import MessageStore
from service.queues.store import QueueStore
from service.threads.store import ThreadStore

DELETED = "openai_deleted"  # in the metadata of a message: for the clients of this dialect its responses are gone


class OpenAIServices(NamedTuple):
    settings: Settings
    follower: Follower
    messages: MessageStore
    threads: ThreadStore
    queues: QueueStore

    async def message(self, principal: Principal, message_id: UUID) -> Status:
        """Raises NotFound, also for one whose response was deleted."""
        message = decoded(await self.messages.status(principal, message_id))
        if DELETED in message.metadata:
            raise NotFound(f"The response of the message {message_id} was deleted.")
        return message
