"""Who waits for the end of a message (service.events.waiter)."""

from abc import ABC, abstractmethod
from uuid import UUID

from service.access.principal import Principal


class Waiter(ABC):
    """A class and no protocol: Litestar asks of each request whether its waiter is one, and asks a protocol for all its
    members each time."""

    @abstractmethod
    async def until_over(self, principal: Principal, message_id: UUID, seconds: float) -> bool:
        """Whether the message is over within so many seconds. It does not wait for one that asks a question, nor while
        this process stops. Raises NotFound, and Unauthorized where the access ends meanwhile."""
