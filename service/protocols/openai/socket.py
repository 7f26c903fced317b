"""/v1/responses as a WebSocket: `response.create` in, the events of the response out.

A frame may have a `stream_id`. The responses of one `stream_id` follow one another, those of several run side by side,
and each of their events has it.
"""

import asyncio
from typing import Annotated, Any, NoReturn

import msgspec
from litestar import websocket
from litestar.di import NamedDependency
from msgspec import Meta

from service.access.principal import Scope
from service.errors import Refused, TooManyRequests, Unauthorized, Unprocessable
from service.json_input import decode
from service.protocols.openai.begin import Begun, begin_response
from service.protocols.openai.errors import describe
from service.protocols.openai.model import ErrorAnswer, Flag, NewResponse, Text
from service.protocols.openai.services import OpenAIServices
from service.protocols.openai.streams import FROM_START, ResponseReader, note
from service.refusals import Plain
from service.sockets.admission import Caller, Refusal, Sockets
from service.sockets.peer import AccessEnded, ClientDisconnected, ClientTooSlow, Socket

MAX_OPEN = 32  # responses of one socket that run or wait for their turn
MAX_LANE_CHARS = 256
RETRY_SECONDS = 1
NO_STEERING = "A response takes no input while it runs: create another one with previous_response_id."


class Frame(NewResponse, frozen=True):
    """A frame of the client. `response.create` has the fields of POST /v1/responses."""

    type: Text = None
    stream_id: Annotated[
        Annotated[str, Meta(max_length=MAX_LANE_CHARS)] | None,
        Meta(description=f"a text of at most {MAX_LANE_CHARS} characters"),
    ] = None
    generate: Flag = None


class ResponsesDialect:
    scopes: tuple[Scope, ...] = ("submit", "read")

    def answer(self, error: Refusal) -> Plain:
        _, shape = describe(error)
        return Plain(ErrorAnswer(shape))

    def frame(self, error: Refusal) -> str:
        return _encode(_error(error))


DIALECT = ResponsesDialect()


@websocket("/responses", scope="submit")
async def responses_socket(
    socket: Socket, openai: NamedDependency[OpenAIServices], sockets: NamedDependency[Sockets]
) -> None:
    """The query may have `token`."""
    await sockets.serve(socket, DIALECT, lambda caller: _Session(openai, caller).run())


HANDLERS = [responses_socket]


class _Session:
    def __init__(self, services: OpenAIServices, caller: Caller) -> None:
        self._services = services
        self._caller = caller
        self._open: set[asyncio.Task[None]] = set()
        self._last: dict[str | None, asyncio.Task[None]] = {}  # of those, by stream_id

    async def run(self) -> None:
        """Raises ClientDisconnected, ClientTooSlow, AccessEnded, Unavailable, SchemaError."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._receive(tasks)
        except ExceptionGroup as ends:
            raise ends.exceptions[0] from None

    async def _receive(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Raises as `run`."""
        while True:
            text = await self._caller.receive()
            self._caller.check()
            stream_id = None
            try:
                await self._caller.count()
                frame: Frame = decode(text, Frame, "frame")
                stream_id = frame.stream_id
                await self._take(frame, tasks)
            except Refused as error:
                await self._send_error(error, stream_id)

    async def _take(self, frame: Frame, tasks: asyncio.TaskGroup) -> None:
        if frame.type == "response.steer":
            await self._refuse_steering(frame)
            return
        if frame.type != "response.create":
            raise Unprocessable("The type of a frame must be response.create.")
        if frame.generate is False:
            raise Unprocessable("A response without output (generate: false) is not possible.")
        if len(self._open) >= MAX_OPEN:
            raise TooManyRequests(
                f"More than {MAX_OPEN} responses are open on this socket: wait for some.", retry_after=RETRY_SECONDS
            )
        before = self._last.get(frame.stream_id)
        task = tasks.create_task(self._respond(frame, before))
        self._open.add(task)
        self._last[frame.stream_id] = task
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._last = {stream_id: last for stream_id, last in self._last.items() if last is not task}

    async def _respond(self, frame: Frame, before: asyncio.Task[None] | None) -> None:
        """Raises ClientDisconnected, ClientTooSlow, AccessEnded."""
        if before is not None:
            await asyncio.wait([before])
        try:
            begun = await begin_response(self._services, self._caller.principal, frame, None)
            await self._follow(begun, frame.stream_id)
        except (ClientDisconnected, ClientTooSlow, AccessEnded):
            raise
        except Refused as error:
            await self._send_error(error, frame.stream_id)
        except Exception as error:
            note(error)
            await self._send_error(error, frame.stream_id)

    async def _follow(self, begun: Begun, stream_id: str | None) -> None:
        """Send the events of a response to its end, also beyond that of a token which the client has renewed. Raises
        ClientDisconnected, ClientTooSlow, AccessEnded, NotFound, Interrupted, Unavailable, SchemaError."""
        sent = FROM_START
        while True:
            try:
                async for events in ResponseReader(self._services, self._caller.principal, begun).pages():
                    for event in events:
                        if event["sequence_number"] > sent:
                            await self._send(event, stream_id)
                            sent = event["sequence_number"]
                return
            except Unauthorized:
                self._caller.check()

    async def _refuse_steering(self, frame: Frame) -> None:
        error = {"code": "steering_not_supported", "message": NO_STEERING, "type": "invalid_request_error"}
        steer = {"input": frame.input, "previous_response_id": frame.previous_response_id}
        failed = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
        await self._send(failed, frame.stream_id)

    async def _send_error(self, error: Exception, stream_id: str | None) -> None:
        await self._send(_error(error), stream_id)

    async def _send(self, event: dict[str, Any], stream_id: str | None) -> None:
        await self._caller.send(_encode(event if stream_id is None else {**event, "stream_id": stream_id}))


def _error(error: Exception) -> dict[str, Any]:
    status, shape = describe(error)
    return {"type": "error", "status": status, "error": msgspec.to_builtins(shape)}


def _encode(frame: dict[str, Any]) -> str:
    return msgspec.json.encode(frame).decode()
