"""The other end of a socket: frames in and out, and the reasons for which a socket ends."""

import asyncio
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, TypeAlias

from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

Socket: TypeAlias = WebSocket[Any, Any, Any]

# The extension of ASGI by which a route bounds the client's first message, before it accepts the socket: a callable
# that takes the number of bytes.
FIRST_MESSAGE_LIMIT = "treadle.first_message_limit"


class CloseCode(IntEnum):
    """Why the server closes a socket (RFC 6455)."""

    REFUSED = 1008
    TOO_BIG = 1009  # sent by uvicorn, for a frame of more than MAX_BODY_BYTES
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


class ClientDisconnected(Exception):
    """The client closed the socket, or the connection broke."""


class ClientTooSlow(Exception):
    """The client does not read what was sent to it."""


class AccessEnded(Exception):
    """The key or token of the client has ended; the text says why."""


class ServerStopping(Exception):
    """This process is about to end."""


class Peer:
    """A client that takes nothing for `patience_seconds` is given up."""

    def __init__(self, socket: Socket, patience_seconds: float) -> None:
        self._socket = socket
        self._patience_seconds = patience_seconds

    async def accept(self, *, first_message_bytes: int | None = None) -> None:
        """`first_message_bytes` bounds the client's first message. Raises ClientDisconnected, ClientTooSlow."""
        if first_message_bytes is not None:
            extensions: Any = self._socket.scope["extensions"]
            extensions[FIRST_MESSAGE_LIMIT](first_message_bytes)
        await self.receive()  # the offer of the socket
        await self._send_event({"type": "websocket.accept", "subprotocol": None, "headers": []})

    async def refuse(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer the handshake in place of accepting it. Raises ClientDisconnected, ClientTooSlow."""
        fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send_event({"type": "websocket.http.response.start", "status": status, "headers": fields})
        await self._send_event({"type": "websocket.http.response.body", "body": body})

    async def receive(self) -> str | bytes:
        """The next frame of the client. Raises ClientDisconnected."""
        try:
            event: Any = await self._socket.receive()
        except WebSocketDisconnect:
            raise ClientDisconnected from None
        if event["type"] == "websocket.disconnect":
            raise ClientDisconnected
        return event.get("text") or event.get("bytes") or b""

    async def send(self, frame: str) -> None:
        """Returns when there is room for the next frame. Raises ClientDisconnected, ClientTooSlow."""
        await self._send_event({"type": "websocket.send", "bytes": None, "text": frame})

    async def close(self, code: CloseCode) -> None:
        """Raises ClientDisconnected, ClientTooSlow."""
        await self._send_event({"type": "websocket.close", "code": int(code), "reason": ""})

    async def _send_event(self, event: Any) -> None:
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._socket.send(event)
        except TimeoutError:
            raise ClientTooSlow from None
        except (WebSocketDisconnect, OSError, RuntimeError):  # RuntimeError: uvicorn has begun to close the socket
            raise ClientDisconnected from None
