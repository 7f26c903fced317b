"""The answers to requests that wait: a stream of events, or the whole once it is there."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import msgspec

from service.access.principal import Principal
from service.errors import TreadleError
from service.events.answers import is_question
from service.protocols.openai.answers import response_of, usage_of
from service.protocols.openai.begin import Begun
from service.protocols.openai.chat import Completion, chunk, usage_chunk, whole
from service.protocols.openai.errors import describe
from service.protocols.openai.model import Response
from service.protocols.openai.services import OpenAIServices
from service.protocols.openai.translate import Event, Translation
from service.sse_frames import KEEPALIVE, encode, encode_unnamed, guarded

log = logging.getLogger(__name__)

CANCEL_SECONDS = 5.0  # that the answer to a cancel waits for its effect
FROM_START = -1  # before the number of the first event


class ResponseReader:
    """Reads the log of a response for one client."""

    def __init__(self, services: OpenAIServices, principal: Principal, begun: Begun) -> None:
        self._services = services
        self._principal = principal
        self._id = begun.response_id
        self._translation = Translation(begun.response_id, response_of(begun.response_id, begun.message))

    async def snapshot(self) -> Response:
        """As far as the log goes. Raises NotFound, Unavailable, SchemaError."""
        async for entry in self._services.follower.read(self._id.message_id, self._id.after):
            await self._translate([entry])
            if self._translation.over:
                break
        return self._translation.response

    async def settled(self, seconds: float) -> Response:
        """As it is when it has ended, or after so many seconds. Raises NotFound, Unavailable, SchemaError."""
        try:
            async with asyncio.timeout(seconds):
                async for _ in self.pages():
                    pass
        except TimeoutError:
            pass
        return self._translation.response

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The response as JSON when it has ended. Meanwhile line feeds keep the connection open. If this server stops,
        or PostgreSQL does not answer, it is the response so far: with an error, the client would submit it again."""
        try:
            async for events in self.pages():
                if not events:
                    yield b"\n"
        except TreadleError as error:
            log.log(error.log_level, "response not awaited", extra={"error": str(error)})
        yield msgspec.json.encode(self._translation.response)

    def events(self, after: int) -> AsyncIterator[bytes]:
        """The events with numbers above `after`, as server-sent events."""
        return guarded("message", self._events(after))

    async def _events(self, after: int) -> AsyncGenerator[bytes, None]:
        try:
            async for events in self.pages():
                if not events:
                    yield KEEPALIVE
                elif part := b"".join(_frame(event) for event in events if event["sequence_number"] > after):
                    yield part
        except Exception as error:
            yield _error_frame(error)

    async def pages(self) -> AsyncIterator[list[Event]]:
        """The events until the end of the response; an empty list after each silence."""
        async for entries in self._services.follower.follow(self._principal, self._id.message_id, self._id.after):
            events = await self._translate(entries)
            if events or not entries:
                yield events
            if self._translation.over:
                return

    async def _translate(self, entries: list[Any]) -> list[Event]:
        events: list[Event] = []
        for entry in entries:
            if entry.last and not is_question(entry):
                message = await self._services.message(self._principal, self._id.message_id)
                self._translation.response = msgspec.structs.replace(
                    self._translation.response, usage=usage_of(message)
                )
            events += self._translation.translate(entry)
            if self._translation.over:
                break
        return events


class CompletionReader:
    """The same of a chat completion. `wants_usage`: its stream ends with a chunk that has the usage."""

    def __init__(
        self, services: OpenAIServices, principal: Principal, begun: Begun, *, wants_usage: bool = False
    ) -> None:
        self._services = services
        self._principal = principal
        self._id, message, _ = begun
        self._wants_usage = wants_usage
        self._completion = Completion(self._id)
        self._head = {
            "id": f"chatcmpl-{str(self._id).removeprefix('resp_')}",
            "created": int(message.created_at.timestamp()),
            "model": message.agent,
            "service_tier": "default",
        }

    async def whole(self) -> dict[str, Any]:
        """Raises Failed, NotFound, Unauthorized, Interrupted, Unavailable, SchemaError."""
        async for _ in self._pages():
            pass
        return whole(self._head, self._completion, usage_of(await self._message()))

    def events(self) -> AsyncIterator[bytes]:
        return guarded("message", self._events())

    async def _events(self) -> AsyncGenerator[bytes, None]:
        try:
            yield encode_unnamed(chunk(self._head, {"role": "assistant", "content": ""}))
            async for deltas in self._pages():
                yield b"".join(encode_unnamed(chunk(self._head, delta)) for delta in deltas) or KEEPALIVE
            yield encode_unnamed(chunk(self._head, {}, self._completion.finish_reason))
            if self._wants_usage:
                yield encode_unnamed(usage_chunk(self._head, usage_of(await self._message())))
            yield b"data: [DONE]\n\n"
        except Exception as error:
            yield _error_frame(error, named=False)

    async def _pages(self) -> AsyncIterator[list[Any]]:
        async for entries in self._services.follower.follow(self._principal, self._id.message_id, self._id.after):
            deltas: list[Any] = []
            for entry in entries:
                deltas += self._completion.translate(entry)
                if self._completion.over:
                    break
            if deltas or not entries:
                yield deltas
            if self._completion.over:
                return

    async def _message(self) -> Any:
        return await self._services.message(self._principal, self._id.message_id)


def _frame(event: Event) -> bytes:
    return encode(event["type"], msgspec.json.encode(event).decode())


def _error_frame(error: Exception, *, named: bool = True) -> bytes:
    """The end of a stream whose answer is not complete. The field `error` makes every SDK raise."""
    note(error)
    _, shape = describe(error)
    fields = {"type": "error", "code": shape.code, "message": shape.message, "param": None} if named else {}
    data = {**fields, "error": msgspec.to_builtins(shape)}
    return encode("error", msgspec.json.encode(data).decode()) if named else encode_unnamed(data)


def note(error: Exception) -> None:
    """Log why a stream ends before its answer."""
    if isinstance(error, TreadleError):
        log.log(error.log_level, "stream interrupted", extra={"error": str(error)})
    else:
        log.error("stream broke", exc_info=error)
