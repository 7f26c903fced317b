"""The sockets of all dialects, for clients that must be admitted."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed

from tests.support.api_client import Client
from tests.support.websocket_client import open_socket, port_of


class SocketDialect(NamedTuple):
    """`said` is the text of a frame that is an error; None for any other frame."""

    path: str
    query: dict[str, str]
    said: Callable[[dict[str, Any]], str | None]

    def url(self, api: Client, **query: str) -> str:
        return f"ws://127.0.0.1:{port_of(api)}{self.path}?{urlencode(self.query | query)}"


def _of_chat(frame: dict[str, Any]) -> str | None:
    return str(frame["detail"]) if frame["type"] == "error" else None


def _of_queue(frame: dict[str, Any]) -> str | None:
    return str(frame["content"]) if frame["type"] == "error" else None


def _of_responses(frame: dict[str, Any]) -> str | None:
    return str(frame["error"]["message"]) if frame["type"] == "error" else None


SOCKET_DIALECTS = {
    "chat": SocketDialect("/ws/chat", {"thread_id": "t"}, _of_chat),
    "queue": SocketDialect("/ws/chat/queue", {"session_id": "t"}, _of_queue),
    "responses": SocketDialect("/v1/responses", {}, _of_responses),
}


class OpenSocket:
    """An open socket of a dialect."""

    def __init__(self, dialect: SocketDialect, connection: Any) -> None:
        self._dialect = dialect
        self.connection = connection

    async def error(self) -> str:
        """The text of the next error."""
        while (said := self._dialect.said(json.loads(await self.connection.recv()))) is None:
            pass
        return said

    async def authenticate(self, credential: str) -> None:
        await self.connection.send(json.dumps({"type": "auth", "token": credential}))

    async def is_admitted(self) -> bool:
        """Whether it takes frames: one that fits no dialect is refused, and the socket stays open."""
        await self.connection.send('{"type": "no such frame"}')
        said = await self.error()
        return "key" not in said and "scope" not in said and self.connection.close_code is None

    async def end(self) -> tuple[str, int | None]:
        """The text of the last error, and the code with which the server closes the socket."""
        last = ""
        with contextlib.suppress(ConnectionClosed):
            async for frame in self.connection:
                last = self._dialect.said(json.loads(frame)) or last
        return last, self.connection.close_code


@contextlib.asynccontextmanager
async def open_socket_of(
    dialect: SocketDialect, api: Client, headers: dict[str, str] | None = None, **query: str
) -> AsyncIterator[OpenSocket]:
    """Open a socket of the dialect. Raises InvalidStatus where the handshake is refused."""
    async with open_socket(dialect.url(api, **query), additional_headers=headers) as socket:
        yield OpenSocket(dialect, socket.connection)
