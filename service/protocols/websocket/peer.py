"""The other end of a socket, and the reasons for which a chat ends."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from service.protocols.websocket.model import CloseCode, ServerFrame
from service.protocols.websocket.translate import encode_frame


class ClientDisconnected(Exception):
    """The client closed the socket, or the connection broke."""


class ClientTooSlow(Exception):
    """The client does not read what was sent to it."""


class AccessEnded(Exception):
    """The key or token of the client has ended; the text says why."""


class ServerStopping(Exception):
    """This process is about to end."""


# The extension of ASGI by which a route bounds the client's first message, before it accepts the socket: a callable
# that takes the number of bytes.
FIRST_MESSAGE_LIMIT = "treadle.first_message_limit"


class Peer(Protocol):
    """A socket as a session uses it."""

    async def receive(self) -> str | bytes:
        """The next frame of the client; raises ClientDisconnected."""

    async def send(self, frame: str) -> None:
        """Returns when there is room for the next frame; raises ClientDisconnected."""

    async def close(self, code: int) -> None:
        """Raises ClientDisconnected."""


class FrameWriter:
    """Sends frames; a client that takes nothing for `patience_seconds` is given up."""

    def __init__(self, peer: Peer, patience_seconds: float) -> None:
        self._peer = peer
        self._patience_seconds = patience_seconds

    async def send(self, frame: ServerFrame) -> None:
        """Raises ClientDisconnected, ClientTooSlow."""
        await self._patiently(self._peer.send(encode_frame(frame)))

    async def close(self, code: CloseCode) -> None:
        """Raises ClientDisconnected, ClientTooSlow."""
        await self._patiently(self._peer.close(code))

    async def _patiently(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._patience_seconds):
                await sending
        except TimeoutError:
            raise ClientTooSlow from None
