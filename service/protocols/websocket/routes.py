"""The sockets /ws/chat?thread_id= and /ws/{thread_id}: the checks before a session begins."""

from collections.abc import Mapping
from typing import Any

from litestar import Router, WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from service.access.principal import Principal
from service.errors import Invalid, Refused
from service.params import parse_event_id, parse_thread_id
from service.protocols.websocket.model import CloseCode, Error
from service.protocols.websocket.peer import ClientDisconnected
from service.protocols.websocket.services import ChatServices
from service.protocols.websocket.session import Session
from service.protocols.websocket.transcript import SeenEvent
from service.protocols.websocket.translate import encode_frame

Socket = WebSocket[Any, Any, Any]


@websocket("/ws/chat")
async def chat(socket: Socket, principal: NamedDependency[Principal], services: NamedDependency[ChatServices]) -> None:
    """The query has `thread_id`, `last_event_id`, `log`, and `token`, which is not checked yet."""
    await _serve(socket, principal, services, socket.query_params.get("thread_id"))


@websocket("/ws/{thread_id:str}")
async def thread_chat(
    socket: Socket,
    thread_id: FromPath[str],
    principal: NamedDependency[Principal],
    services: NamedDependency[ChatServices],
) -> None:
    await _serve(socket, principal, services, thread_id)


router = Router("/", route_handlers=[chat, thread_chat])


async def _serve(socket: Socket, principal: Principal, services: ChatServices, thread_id: str | None) -> None:
    peer = _LitestarPeer(socket)
    try:
        await socket.accept()
        try:
            checked_thread_id = parse_thread_id(thread_id or "")
            session = Session(services, peer, principal, checked_thread_id, _parse_seen(socket.query_params))
        except Refused as error:
            await peer.send(encode_frame(Error(str(error))))
            await peer.close(CloseCode.REFUSED)
            return
    except ClientDisconnected:
        return
    await session.run()


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
