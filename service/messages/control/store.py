"""Changes of messages that exist, in PostgreSQL."""

from typing import Any
from uuid import UUID

import msgspec

from service import telemetry
from service.access.principal import Principal
from service.db.pool import Database
from service.errors import Busy, Conflict
from service.messages.model import MessageChanges, NewInput, State
from service.patience import DIRECT_CALLS, HELD_SECONDS, Patience


class MessageControl:
    """Changes of messages that exist. Each raises NotFound, Conflict or Busy."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cancels = Patience(seconds=HELD_SECONDS)  # without slots: most cancel a running message, which is short
        self._answers = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)
        self._redrives = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)
        self._changes = Patience(seconds=HELD_SECONDS, slots=DIRECT_CALLS)

    async def cancel(self, principal: Principal, message_id: UUID) -> str:
        """'cancelled' now, or 'requested' of the worker; raises NotFound, Conflict, Busy."""
        call = "select treadle.cancel($3, patient => false, tenant => $1, reach => $2::jsonb, actor => $4)"
        answer = str(await self._change(self._cancels, principal, call, message_id, principal.name))
        telemetry.cancel(tenant=principal.tenant, message_id=message_id, answer=answer)
        return answer

    async def cancel_unless_over(self, principal: Principal, message_id: UUID) -> bool:
        """Cancel the message, unless it is over; returns whether it was open. Raises NotFound, Busy."""
        try:
            await self.cancel(principal, message_id)
        except Busy:
            raise
        except Conflict:
            return False
        return True

    async def input(self, principal: Principal, message_id: UUID, given: NewInput) -> State:
        """The message's new state; raises NotFound, Conflict, Busy."""
        text = msgspec.json.encode(given.input).decode()
        call = "select treadle.input($3, $4::jsonb, $5, patient => false, tenant => $1, reach => $2::jsonb)"
        state: State = await self._change(self._answers, principal, call, message_id, text, given.name)
        return state

    async def input_once(self, principal: Principal, message_id: UUID, key: str, given: NewInput) -> State:
        """Input under a key of the caller: an answer under the same key changes nothing. The message's state; raises
        NotFound, Conflict, Busy."""
        text = msgspec.json.encode(given.input).decode()
        call = (
            "select treadle.input_once($3, key => $4, input => $5::jsonb, name => $6, patient => false, tenant => $1,"
            " reach => $2::jsonb)"
        )
        state: State = await self._change(self._answers, principal, call, message_id, key, text, given.name)
        return state

    async def redrive(self, principal: Principal, message_id: UUID) -> State:
        """The message's new state; raises NotFound, Conflict, Busy."""
        call = "select treadle.redrive($3, patient => false, tenant => $1, reach => $2::jsonb, actor => $4)"
        state: State = await self._change(self._redrives, principal, call, message_id, principal.name)
        telemetry.redrive(tenant=principal.tenant, message_id=message_id)
        return state

    async def retry(self, principal: Principal, message_id: UUID, step: str) -> State:
        """Run a message that is over again, from this step; returns its new state. Raises NotFound, Conflict, Busy."""
        call = "select treadle.retry_from($3, $4, patient => false, tenant => $1, reach => $2::jsonb, actor => $5)"
        state: State = await self._change(self._redrives, principal, call, message_id, step, principal.name)
        telemetry.redrive(tenant=principal.tenant, message_id=message_id)
        return state

    async def change(self, principal: Principal, message_id: UUID, changes: MessageChanges) -> None:
        """Change a queued message; raises NotFound, Conflict, Busy."""
        metadata = None if changes.metadata is None else msgspec.json.encode(changes.metadata).decode()
        call = (
            "select treadle.change_message($3, priority => $4, delay_seconds => $5, metadata => $6::jsonb,"
            " patient => false, tenant => $1, reach => $2::jsonb, actor => $7)"
        )
        values = (changes.priority, changes.delay_seconds, metadata, principal.name)
        await self._change(self._changes, principal, call, message_id, *values)

    async def mark(self, principal: Principal, message_id: UUID, marks: dict[str, Any]) -> None:
        """Add marks to the metadata of a message that is over; raises NotFound, Conflict, Busy."""
        call = "select treadle.mark_message($3, $4::jsonb, patient => false, tenant => $1, reach => $2::jsonb)"
        await self._change(self._changes, principal, call, message_id, msgspec.json.encode(marks).decode())

    async def _change(self, patience: Patience, principal: Principal, call: str, *args: Any) -> Any:
        """`call`: a statement; the tenant and the reach of the principal are $1 and $2, `args` follow."""
        return await patience.run(
            lambda _: self._database.fetchval(call, principal.tenant, principal.reach, *args, repeatable=False),
            group=principal.tenant,
        )
