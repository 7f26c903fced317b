"""/v1/responses as a WebSocket: `response.create` in, the events of the response out.

A frame may name a lane with `stream_id`. The responses of a lane follow one another, those of several lanes run side by
side, and each of their events has the `stream_id` of its lane.
"""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Annotated, Any, NoReturn

import msgspec
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from msgspec import Meta

from service import telemetry
from service.access.authenticator import require
from service.access.principal import Principal
from service.client_limits import address_of, key_of, pause
from service.errors import Refused, SchemaError, TooManyRequests, Unauthorized, Unavailable, Unprocessable
from service.json_input import decode
from service.protocols.openai.begin import begin_response
from service.protocols.openai.errors import describe, headers_of
from service.protocols.openai.model import ErrorAnswer, Flag, NewResponse, Text
from service.protocols.openai.services import OpenAIServices
from service.protocols.openai.streams import ResponseReader, note

Socket = WebSocket[Any, Any, Any]

MAX_OPEN = 32  # responses of one socket that run or wait for their turn
MAX_LANE_CHARS = 256
RETRY_SECONDS = 1
REFUSED = 1008  # RFC 6455
BEARER = "bearer "
MISSING = "Send a key or an access token in the header Authorization, or as ?token=."
NO_STEERING = "A response takes no input while it runs: create another one with previous_response_id."


class Frame(NewResponse, frozen=True):
    """A frame of the client. `response.create` has the fields of POST /v1/responses."""

    type: Text = None
    stream_id: Annotated[
        Annotated[str, Meta(max_length=MAX_LANE_CHARS)] | None,
        Meta(description=f"a text of at most {MAX_LANE_CHARS} characters"),
    ] = None
    generate: Flag = None


@websocket("/responses", scope="submit")
async def responses_socket(socket: Socket, openai: NamedDependency[OpenAIServices]) -> None:
    """The query may have `token`."""
    with contextlib.ExitStack() as counted, contextlib.suppress(_Gone):  # the refusal of a handshake raises it
        try:
            principal, clients = await _admit(socket, openai, counted)
        except (Refused, Unavailable, SchemaError) as error:
            await _refuse(socket, error)
            return
        await socket.accept()
        telemetry.socket(opened=True)
        try:
            await _Session(socket, openai, principal, clients).run()
        finally:
            telemetry.socket(opened=False)


HANDLERS = [responses_socket]


class _Gone(Exception):
    """The client has closed the socket, or takes nothing."""


class _Session:
    """`clients` are counted for each frame."""

    def __init__(self, socket: Socket, services: OpenAIServices, principal: Principal, clients: list[str]) -> None:
        self._socket = socket
        self._services = services
        self._principal = principal
        self._clients = clients
        self._open: set[asyncio.Task[None]] = set()
        self._last: dict[str | None, asyncio.Task[None]] = {}  # of those, by lane

    async def run(self) -> None:
        """Returns when the client has gone, or its access has ended."""
        try:
            async with asyncio.TaskGroup() as tasks:
                await self._receive(tasks)
        except* _Gone:
            pass

    async def _receive(self, tasks: asyncio.TaskGroup) -> NoReturn:
        """Raises _Gone."""
        while True:
            text = await self._next()
            lane = None
            try:
                await self._count()
                if reason := self._services.access.end_of(self._principal):
                    await self._end(Unauthorized(reason))
                frame: Frame = decode(text, Frame, "frame")
                lane = frame.stream_id
                await self._take(frame, tasks)
            except Refused as error:
                await self._send_error(error, lane)

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
        self._last = {lane: last for lane, last in self._last.items() if last is not task}

    async def _respond(self, frame: Frame, before: asyncio.Task[None] | None) -> None:
        """Raises _Gone."""
        if before is not None:
            await asyncio.wait([before])
        try:
            begun = await begin_response(self._services, self._principal, frame, None)
            async for events in ResponseReader(self._services, self._principal, begun).pages():
                for event in events:
                    await self._send(event, frame.stream_id)
        except _Gone:
            raise
        except Unauthorized as error:
            await self._end(error)
        except Refused as error:
            await self._send_error(error, frame.stream_id)
        except Exception as error:
            note(error)
            await self._send_error(error, frame.stream_id)

    async def _refuse_steering(self, frame: Frame) -> None:
        error = {"code": "steering_not_supported", "message": NO_STEERING, "type": "invalid_request_error"}
        steer = {"input": frame.input, "previous_response_id": frame.previous_response_id}
        failed = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
        await self._send(failed, frame.stream_id)

    async def _count(self) -> None:
        try:
            for client in self._clients:
                self._services.limits.count_request(client)
        except TooManyRequests:
            await pause()
            raise

    async def _end(self, error: Unauthorized) -> NoReturn:
        """The access of the client has ended. Raises _Gone."""
        await self._send_error(error, None)
        await self._event({"type": "websocket.close", "code": REFUSED, "reason": ""})
        raise _Gone

    async def _send_error(self, error: Exception, lane: str | None) -> None:
        status, shape = describe(error)
        await self._send({"type": "error", "status": status, "error": msgspec.to_builtins(shape)}, lane)

    async def _send(self, event: dict[str, Any], lane: str | None) -> None:
        frame = event if lane is None else {**event, "stream_id": lane}
        text = msgspec.json.encode(frame).decode()
        await self._event({"type": "websocket.send", "bytes": None, "text": text})

    async def _event(self, event: Any) -> None:
        """A client that takes nothing for as long as a keepalive is given up."""
        await _patiently(_event(self._socket, event), self._services.settings.keepalive_interval)

    async def _next(self) -> str | bytes:
        try:
            event: Any = await self._socket.receive()
        except WebSocketDisconnect:
            raise _Gone from None
        if event["type"] == "websocket.disconnect":
            raise _Gone
        return event.get("text") or event.get("bytes") or b""


async def _admit(
    socket: Socket, services: OpenAIServices, counted: contextlib.ExitStack
) -> tuple[Principal, list[str]]:
    """The principal, and the clients that its frames count for: its address, and its key. Raises Unauthorized,
    Forbidden, TooManyRequests, Unavailable, SchemaError."""
    credential: str | None
    header = socket.headers.get("authorization")
    if header is not None:
        credential = header[len(BEARER) :].strip() if header[: len(BEARER)].lower() == BEARER else ""
    else:
        credential = socket.query_params.get("token") or None
    if services.access.required and credential is None:
        raise Unauthorized(MISSING)
    principal = await services.access.identify(credential)
    for scope in ("submit", "read"):
        require(principal, scope)
    clients = [address_of(socket.scope["client"])]
    if services.access.required:
        clients.append(key_of(principal))
        services.limits.count_request(clients[-1])
        counted.enter_context(services.limits.stream(clients[-1]))
    return principal, clients


async def _refuse(socket: Socket, error: Refused | Unavailable | SchemaError) -> None:
    """Answer the handshake with the error. Raises _Gone."""
    status, shape = describe(error)
    headers = {"Content-Type": "application/json", **headers_of(error)}
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await _event(socket, {"type": "websocket.http.response.start", "status": status, "headers": fields})
    body = msgspec.json.encode(ErrorAnswer(shape))
    await _event(socket, {"type": "websocket.http.response.body", "body": body})


async def _patiently(sending: Awaitable[None], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await sending
    except TimeoutError:
        raise _Gone from None


async def _event(socket: Socket, event: Any) -> None:
    try:
        await socket.send(event)
    except (WebSocketDisconnect, OSError, RuntimeError):  # RuntimeError: uvicorn has begun to close the socket
        raise _Gone from None
