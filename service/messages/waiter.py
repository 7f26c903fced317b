"""The waiter for the end of a message, which is service.events.waiter."""

from abc import ABC, abstractmethod
from uuid import UUID

from service.access.principal import Principal


class Waiter(ABC):
    """An abstract class, because Litestar checks the type of the waiter in each request, and the check of a protocol
    looks up all its members."""

    @abstractmethod
    async def until_over(self, principal: Principal, message_id: UUID, seconds: float) -> bool:
        """Whether the message is over within so many seconds. It does not wait for one that asks a question, nor while
        this process stops. Raises NotFound, and Unauthorized where the access ends meanwhile."""
