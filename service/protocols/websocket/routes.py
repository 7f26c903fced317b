"""A chat over WebSocket: a thread's log as frames, and what its people say."""

from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import WebSocket, websocket
from litestar.di import NamedDependency
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath

from service.errors import Invalid
from service.limits import THREAD_ID_RULE
from service.messages.model import ThreadId
from service.params import parse_event_id
from service.protocols.websocket.model import Error, write
from service.protocols.websocket.session import REFUSED, Chats, Gone, Session

Socket = WebSocket[Any, Any, Any]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@websocket("/ws/chat")
async def chat(socket: Socket, chats: NamedDependency[Chats]) -> None:
    """The thread is named in the query: ?thread_id=, ?last_event_id=, and ?token=, which nobody looks at yet."""
    await _converse(socket, chats, socket.query_params.get("thread_id"))


@websocket("/ws/{thread_id:str}")
async def chat_in(socket: Socket, thread_id: FromPath[str], chats: NamedDependency[Chats]) -> None:
    await _converse(socket, chats, thread_id)


async def _converse(socket: Socket, chats: Chats, thread_id: str | None) -> None:
    if _foreign(socket):
        await socket.close()  # before it is accepted: 403
        return
    peer = _Peer(socket)
    try:
        await socket.accept()
        try:
            session = Session(
                chats,
                peer,
                _thread_id(thread_id),
                parse_event_id(socket.query_params.get("last_event_id"), "last_event_id"),
            )
        except Invalid as error:
            await peer.send(write(Error(str(error))))
            await peer.close(REFUSED)
            return
    except Gone:
        return
    await session.run()


class _Peer:
    """Litestar's socket as a session sees it."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    async def receive(self) -> str | bytes:
        try:
            event: Any = await self._socket.receive()
        except WebSocketDisconnect:
            raise Gone from None
        if event["type"] == "websocket.disconnect":
            raise Gone
        return event.get("text") or event.get("bytes") or b""

    async def send(self, frame: str) -> None:
        await self._say({"type": "websocket.send", "bytes": None, "text": frame})

    async def close(self, code: int) -> None:
        await self._say({"type": "websocket.close", "code": code, "reason": ""})

    async def _say(self, event: Any) -> None:
        try:
            await self._socket.send(event)
        except (WebSocketDisconnect, OSError, RuntimeError):  # the last: uvicorn has begun to close it
            raise Gone from None


def _thread_id(text: str | None) -> str:
    try:
        return msgspec.convert(text, ThreadId)
    except msgspec.ValidationError:
        raise Invalid(f"thread_id must be {THREAD_ID_RULE}.") from None


def _foreign(socket: Socket) -> bool:
    """Whether a page of another host asks. A browser lets any page open a socket to anywhere, also to a service that
    only this person can reach."""
    origin = socket.headers.get("origin")
    if origin is None:
        return False  # no browser
    page = _host(origin)
    asked = {_host(f"//{socket.headers.get(name, '')}") for name in ("host", "x-forwarded-host")} - {None}
    return not (page in asked or (page in LOOPBACK and asked & LOOPBACK))


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
