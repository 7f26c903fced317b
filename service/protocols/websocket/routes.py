"""The sockets /ws/chat?thread_id= and /ws/{thread_id}: the checks before a session begins."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import msgspec
from litestar import Router, WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from service import telemetry
from service.client_limits import address_of, key_of
from service.errors import Invalid, Refused, SchemaError, TooManyRequests, Unauthorized, Unavailable
from service.params import parse_event_id, parse_thread_id
from service.protocols.websocket.admission import (
    FIRST_FRAME_BYTES,
    Caller,
    admit,
    awaits_first_frame,
    sent_with,
)
from service.protocols.websocket.model import CloseCode, Error
from service.protocols.websocket.peer import FIRST_MESSAGE_LIMIT, ClientDisconnected
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.session import Session
from service.protocols.websocket.transcript import SeenEvent
from service.protocols.websocket.translate import encode_frame
from service.refusals import CHALLENGE, Problem
from service.refusals import MEDIA_TYPE as PROBLEM_TYPE

Socket = WebSocket[Any, Any, Any]


@websocket("/ws/chat")
async def chat(socket: Socket, services: NamedDependency[ChatServices]) -> None:
    """The query has `thread_id` (or `session_id`), `agent`, `last_event_id`, `log`, and `token`."""
    query = socket.query_params
    await _serve(socket, services, query.get("thread_id", query.get("session_id")))


@websocket("/ws/{thread_id:str}")
async def thread_chat(socket: Socket, thread_id: FromPath[str], services: NamedDependency[ChatServices]) -> None:
    """The query has the same, without `thread_id`. A frame may be just what the user says."""
    await _serve(socket, services, thread_id, takes_bare_texts=True)


router = Router("/", route_handlers=[chat, thread_chat], opt={"scope": "read"})


async def _serve(
    socket: Socket, services: ChatServices, thread_id: str | None, *, takes_bare_texts: bool = False
) -> None:
    with ExitStack() as counted:
        if session := await _open_session(socket, services, thread_id, counted, takes_bare_texts):
            telemetry.socket(opened=True)
            try:
                await session.run()
            finally:
                telemetry.socket(opened=False)


async def _open_session(
    socket: Socket, services: ChatServices, thread_id: str | None, counted: ExitStack, takes_bare_texts: bool
) -> Session | None:
    """None where the socket is refused, or its client has gone. `counted` ends with the socket."""
    peer = _LitestarPeer(socket)
    credential = sent_with(socket.headers, socket.query_params)
    caller = None
    try:
        if "authorization" in socket.headers:  # of a program, which sees the status of a refused handshake
            try:
                caller = await _admit(socket, services, credential, counted)
            except (Refused, Unavailable, SchemaError) as error:
                await _refuse_handshake(socket, error)
                return None
        if awaits_first_frame(services.access, credential):
            _limit_first_frame(socket)
        await socket.accept()
        try:
            caller = caller or await _admit(socket, services, credential, counted)
            checked_thread_id = parse_thread_id(thread_id or "")
            query = socket.query_params
            return Session(
                services,
                peer,
                caller,
                checked_thread_id,
                _parse_seen(query),
                agent=query.get("agent"),
                takes_bare_texts=takes_bare_texts,
            )
        except (Refused, Unavailable, SchemaError) as error:
            await peer.send(encode_frame(Error(str(error), retry_after=error.retry_after)))
            is_final = isinstance(error, Refused) and not isinstance(error, TooManyRequests)
            await peer.close(CloseCode.REFUSED if is_final else CloseCode.TRY_AGAIN_LATER)
    except ClientDisconnected:
        pass
    return None


def _limit_first_frame(socket: Socket) -> None:
    """A client that is not known yet makes the server read no frame of MAX_BODY_BYTES."""
    extensions: Any = socket.scope["extensions"]
    extensions[FIRST_MESSAGE_LIMIT](FIRST_FRAME_BYTES)


async def _admit(socket: Socket, services: ChatServices, credential: str | None, counted: ExitStack) -> Caller:
    """The caller, counted by its key as long as the socket is open. Raises as `admit`, and TooManyRequests."""
    caller = await admit(services.access, _LitestarPeer(socket), credential)
    caller.clients.append(address_of(socket.scope["client"]))
    if services.access.required:
        client = key_of(caller.principal)
        caller.clients.append(client)
        services.limits.count_request(client)
        counted.enter_context(services.limits.stream(client))
    return caller


async def _refuse_handshake(socket: Socket, error: Refused | Unavailable | SchemaError) -> None:
    body = msgspec.json.encode(Problem(error.title, error.status, str(error)))
    headers = [(b"content-type", PROBLEM_TYPE.encode())]
    if error.retry_after:
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", CHALLENGE.encode()))
    start: Any = {"type": "websocket.http.response.start", "status": error.status, "headers": headers}
    await socket.send(start)
    await socket.send({"type": "websocket.http.response.body", "body": body})  # type: ignore[arg-type]


class _LitestarPeer:
    """A Litestar socket as a Peer."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def receive(self) -> str | bytes:
        try:
            event: Any = await self._socket.receive()
        except WebSocketDisconnect:
            raise ClientDisconnected from None
        if event["type"] == "websocket.disconnect":
            raise ClientDisconnected
        return event.get("text") or event.get("bytes") or b""

    async def send(self, frame: str) -> None:
        await self._send_event({"type": "websocket.send", "bytes": None, "text": frame})

    async def close(self, code: int) -> None:
        await self._send_event({"type": "websocket.close", "code": int(code), "reason": ""})

    async def _send_event(self, event: Any) -> None:
        try:
            await self._socket.send(event)
        except (WebSocketDisconnect, OSError, RuntimeError):  # RuntimeError: uvicorn has begun to close the socket
            raise ClientDisconnected from None


def _parse_seen(query: Mapping[str, str]) -> SeenEvent:
    log = query.get("log") or None
    if log is not None and not (log.isascii() and log.isdecimal() and len(log) < 20):
        raise Invalid("log must be the log that the frame `open` named, a whole number.")
    return SeenEvent(parse_event_id(query.get("last_event_id"), "last_event_id"), None if log is None else int(log))
