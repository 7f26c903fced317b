"""The client's side of a chat: each frame that it sends, and the answer to it."""

import asyncio
import contextlib
from typing import NoReturn

import msgspec

from service.errors import Refused
from service.messages.model import NewMessage
from service.messages.validation import validate_input, validate_messages
from service.protocols.websocket.model import Cancel, Error, Input, Ping, Pong, ServerFrame, Status, UserInput
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.translate import (
    decode_bare_frame,
    decode_frame,
    encode_frame,
    key_of,
    to_idempotency_key,
    to_message,
)
from service.sockets.admission import Caller
from service.sockets.peer import ClientDisconnected


class Requests:
    """Carries out the client's frames, one after the other, and sets `accepted` when an input was stored."""

    def __init__(
        self,
        services: ChatServices,
        caller: Caller,
        thread_id: str,
        accepted: asyncio.Event,
        *,
        agent: str | None = None,
        takes_bare_texts: bool = False,
    ) -> None:
        self._decode = decode_bare_frame if takes_bare_texts else decode_frame
        self._services = services
        self._caller = caller
        self._thread_id = thread_id
        self._accepted = accepted
        self._agent = agent

    async def run(self) -> NoReturn:
        """Raises ClientDisconnected, ClientTooSlow, AccessEnded, Unavailable, SchemaError."""
        while True:
            frame = await self._caller.receive()
            self._caller.check()
            try:
                request = self._decode(frame)
            except Refused as error:
                await self._refuse(frame, error)
                continue
            match request:
                case Ping():
                    await self._answer(Pong())
                case Cancel():
                    await self._cancel(request)
                case Input():
                    await self._give_input(request)
                case UserInput():
                    await self._submit(msgspec.structs.replace(request, agent=request.agent or self._agent))

    async def _refuse(self, frame: str | bytes, error: Refused) -> None:
        """A frame that cannot be read counts for the client's limit, too."""
        try:
            await self._caller.count()
        except Refused as limited:
            error = limited
        await self._answer(Error(str(error), error.status, key=key_of(frame), retry_after=error.retry_after))

    async def _submit(self, given: UserInput) -> None:
        try:
            self._caller.require("submit")
            await self._caller.count()
            message = to_message(given, self._thread_id)
            validate_messages([message], self._services.settings, in_batch=False)
            status = await self._store(given, message)
        except Refused as error:
            await self._answer(Error(str(error), error.status, key=given.key, retry_after=error.retry_after))
            return
        self._accepted.set()
        await self._answer(status)

    async def _store(self, given: UserInput, message: NewMessage) -> Status:
        messages, principal = self._services.messages, self._caller.principal
        other_agent = await self._agent_while_busy(given, message)
        stored = msgspec.structs.replace(message, agent=other_agent, aside=True) if other_agent else message
        if given.key is None:
            accepted = await messages.submit(principal, stored)
        else:
            key, request_hash = to_idempotency_key(given.key, message)
            [accepted] = await messages.submit_once(principal, key, request_hash, [stored])
            # The first input under this key may have gone to another agent than a repeat would.
            if other_agent and (await messages.status(principal, accepted.message_id)).agent != other_agent:
                other_agent = None
        return Status(
            "accepted",
            message_id=accepted.message_id,
            key=given.key,
            queue_position=accepted.queue_position,
            agent=other_agent,
        )

    async def _agent_while_busy(self, given: UserInput, message: NewMessage) -> str | None:
        """The agent that answers this input at once because the thread's agent is busy; None where the input takes its
        turn. An object is for the agent that the client names, and `aside` is the client's own decision."""
        if given.aside is not None or given.on_busy is not None or not isinstance(message.message, str):
            return None
        return await self._services.threads.agent_while_busy(self._caller.principal, self._thread_id, given.agent)

    async def _cancel(self, request: Cancel) -> None:
        try:
            self._caller.require("submit")
            await self._caller.count()
            await self._services.messages.cancel(self._caller.principal, request.message_id)
        except Refused as error:
            refused = Error(str(error), error.status, message_id=request.message_id, retry_after=error.retry_after)
            await self._answer(refused)
        else:
            await self._answer(Status("cancelling", message_id=request.message_id))

    async def _give_input(self, given: Input) -> None:
        try:
            self._caller.require("submit")
            await self._caller.count()
            validate_input(given, self._services.settings)
            await self._services.messages.input(self._caller.principal, given.message_id, given)
        except Refused as error:
            refused = Error(str(error), error.status, message_id=given.message_id, retry_after=error.retry_after)
            await self._answer(refused)
        else:
            await self._answer(Status("answered", message_id=given.message_id))

    async def _answer(self, frame: ServerFrame) -> None:
        """Raises ClientTooSlow. A disconnect is left to `receive`, which first returns every frame that arrived before
        it: an input counts although its client closed the socket at once."""
        with contextlib.suppress(ClientDisconnected):
            await self._caller.send(encode_frame(frame))
