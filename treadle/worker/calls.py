"""The calls of one attempt that an agent waits for, under its lease."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from service.agents.contract import Exchange, Rejected
from treadle.client.errors import ApiError
from treadle.worker.protocol import Claim, LeaseLost, Leases, Placed, Stoppable, WaitedMessage

T = TypeVar("T")


class Calls:
    """Stops the attempt if the lease is lost; the agent is cancelled then."""

    def __init__(self, leases: Leases, worker: str, claim: Claim, attempt: Stoppable) -> None:
        self._leases = leases
        self._worker = worker
        self._claim = claim
        self._attempt = attempt

    async def place_message(self, send: dict[str, Any], used_numbers: Sequence[int] | None) -> Placed:
        """A message to send: its id, its name, and whether it is new. Raises Rejected."""
        return await self._under_lease(self._leases.place_message(self._worker, self._claim, send, used_numbers))

    async def place_record(self, record: dict[str, Any], used_numbers: Sequence[int] | None) -> Placed:
        """The same for a record to publish."""
        return await self._under_lease(self._leases.place_record(self._worker, self._claim, record, used_numbers))

    async def history(self, limit: int, *, tools: bool) -> list[Exchange]:
        past = await self._under_lease(self._leases.history(self._worker, self._claim, limit, tools=tools))
        return [Exchange(exchange.message, exchange.result, exchange.tools) for exchange in past]

    async def children(self, ids: Sequence[str]) -> list[WaitedMessage]:
        """The states of messages that the attempt has sent. Raises Rejected."""
        return await self._under_lease(self._leases.children(self._worker, self._claim, ids))

    async def _under_lease(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            return await call
        except LeaseLost:
            self._attempt.stop("lost")
            await asyncio.sleep(0)
            raise asyncio.CancelledError from None
        except ApiError as error:
            raise Rejected(str(error)) from error
