"""A small connection pooler that behaves as PgBouncer does: for one user and one database, without cancel requests."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Literal

STARTUP, SSL_REQUEST = 3 << 16, 80877103  # PostgreSQL documentation, "Message Formats"
READY, IDLE = b"Z", b"I"


class Pooler:
    """`mode` is when a client gives its server connection back; `refuses_settings`: as PgBouncer does by default."""

    def __init__(self, target: int, *, mode: Literal["session", "transaction"], refuses_settings: bool) -> None:
        self._target, self._mode, self._refuses_settings = target, mode, refuses_settings
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []  # a cancelled task leaves its own open

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for writer in self._writers:
            await _close(writer)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: asyncio.Task[None] | None = None  # passes on what the server connection answers that the client has now
        server: asyncio.StreamWriter | None = None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            try:
                if not await self._greet(reader, writer):
                    return
                while True:
                    kind, body = await _message(reader)
                    if kind == b"X":
                        return
                    if held is None or held.done():
                        connection = self._idle.pop() if self._idle else await self._open(self._startup)
                        server = connection[1]
                        held = asyncio.create_task(self._answer(connection, writer))
                    assert server is not None
                    server.write(kind + struct.pack("!I", len(body) + 4) + body)
            finally:
                if held is not None and not held.done():
                    held.cancel()
                    assert server is not None
                    await _close(server)
                await _close(writer)

    async def _answer(
        self, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], client: asyncio.StreamWriter
    ) -> None:
        """Pass answers on until the client gives the server connection back."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, body = await _message(connection[0])
                client.write(kind + struct.pack("!I", len(body) + 4) + body)
                if self._mode == "transaction" and (kind, body) == (READY, IDLE):
                    self._idle.append(connection)
                    return

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        code, body = await _startup(reader)
        if code == SSL_REQUEST:
            writer.write(b"N")
            code, body = await _startup(reader)
        assert code == STARTUP
        if self._refuses_settings and b"tcp_keepalives_idle" in body:
            text = b"SFATAL\0C08P01\0Munsupported startup parameter: tcp_keepalives_idle\0\0"
            writer.write(b"E" + struct.pack("!I", len(text) + 4) + text)
            return False
        self._startup = body
        server = await self._open(body, writer)
        self._idle.append(server)
        writer.write(b"K" + struct.pack("!III", 12, 1, 1) + READY + struct.pack("!I", 5) + IDLE)
        return True

    async def _open(
        self, startup: bytes, client: asyncio.StreamWriter | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server; the client is told its parameters."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.append(writer)
        writer.write(struct.pack("!II", len(startup) + 8, STARTUP) + startup)
        while True:
            kind, body = await _message(reader)
            if kind == READY:
                return reader, writer
            if client is not None and kind != b"K":
                client.write(kind + struct.pack("!I", len(body) + 4) + body)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def _startup(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    length, code = struct.unpack("!II", await reader.readexactly(8))
    return code, await reader.readexactly(length - 8)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind, length = struct.unpack("!cI", await reader.readexactly(5))
    return kind, await reader.readexactly(length - 4)


@contextlib.asynccontextmanager
async def pooler_before(
    dsn: str, *, mode: Literal["session", "transaction"], refuses_settings: bool = True
) -> AsyncIterator[str]:
    """The address of a pooler before the server of `dsn`."""
    head, _, database = dsn.rpartition("/")
    start, _, port = head.rpartition(":")
    pooler = Pooler(int(port), mode=mode, refuses_settings=refuses_settings)
    await pooler.start()
    try:
        yield f"{start}:{pooler.port}/{database}?sslmode=disable"
    finally:
        await pooler.close()
