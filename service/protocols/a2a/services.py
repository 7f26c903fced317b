"""What the handlers of the protocol share."""

from typing import NamedTuple
from uuid import UUID

from service.access.authenticator import Access
from service.access.principal import Principal
from service.config import Settings
from service.errors import NotFound
from service.events.follower import Follower
from service.inspection.store import InspectionStore
from service.messages.model import Status, decoded
from service.messages.store import MessageStore
from service.protocols.a2a.errors import TaskNotFound
from service.protocols.a2a.inputs import parse_task_id
from service.protocols.a2a.translate import TaskLog
from service.queues.store import QueueStore
from service.webhooks.store import PushStore

SILENCE_SECONDS = 2.0  # clients give up after five without a byte; a silence may be noticed after twice as long


class Caller(NamedTuple):
    """Who asks, and the agent that it addresses; None: all of them."""

    principal: Principal
    agent: str | None


class A2AServices(NamedTuple):
    """`follower` tells of silences that are shorter than the patience of clients."""

    settings: Settings
    access: Access
    follower: Follower
    messages: MessageStore
    inspection: InspectionStore
    queues: QueueStore
    push: PushStore

    async def message(self, caller: Caller, task_id: str) -> Status:
        """Raises TaskNotFound."""
        unknown = TaskNotFound(f"There is no task {task_id[:100]!r}.")
        message_id = parse_task_id(task_id)
        if message_id is None:
            raise unknown
        try:
            message = await self.decoded(caller.principal, message_id)
        except NotFound:
            raise unknown from None
        if caller.agent not in (None, message.agent):
            raise unknown
        return message

    async def decoded(self, principal: Principal, message_id: UUID) -> Status:
        """With the values of its JSON. Raises NotFound."""
        return decoded(await self.messages.status(principal, message_id))

    async def read(self, task: TaskLog) -> None:
        """The task becomes what its log says so far. Raises NotFound, Unavailable, SchemaError."""
        async for entry in self.follower.read(task.message_id, task.seq):
            task.fold(entry)
