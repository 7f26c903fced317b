"""A remote agent on loopback that answers exactly the bytes of a test."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from tests.support.waiting import let_the_loop_read


class Reply(msgspec.Struct, frozen=True):
    """Bytes to send, piece by piece. The connection then ends, or stays open until the client closes it."""

    pieces: tuple[bytes, ...]
    stays: bool = False


def answer(body: Any = None, status: str = "200 OK", kind: str = "application/json", **headers: str) -> Reply:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": kind, "Content-Length": str(len(raw)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return Reply((f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + raw,))


def stream(*pieces: str, stays: bool = False, cut: bool = False) -> Reply:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [b"%x\r\n%s\r\n" % (len(raw), raw) for raw in (piece.encode() for piece in pieces)]
    return Reply((head, *chunks, *(() if stays or cut else (b"0\r\n\r\n",))), stays)


class Request(msgspec.Struct, frozen=True):
    line: str
    headers: dict[str, str]
    body: Any


class Remote:
    """Answers with the next entry of `script`, or with {"result": "well"} if it is empty."""

    def __init__(self) -> None:
        self.script: deque[Reply] = deque()
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Remote"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/answer"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in rest if field)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(Request(line, headers, json.loads(body)))
            reply = self.script.popleft() if self.script else answer({"result": "well"})
            for piece in reply.pieces:
                writer.write(piece)
                await writer.drain()
                await let_the_loop_read()  # so that the pieces arrive separately
            if reply.stays:
                await reader.read()
                self.hung_up.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
