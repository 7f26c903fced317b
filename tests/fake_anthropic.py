"""A fake of the Messages API on loopback, spoken to over real HTTP: it answers as its script says, and remembers what
it was asked."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """A stream of these pieces. It ends as `ends` says: 'whole'; 'early', cleanly but without the last events; 'cut',
    in the middle of the body; 'error', with an error event; 'never', when the client goes away."""

    pieces: tuple[str, ...] = ("Hello", ", ", "world")
    ends: str = "whole"
    error: str = "overloaded_error"
    stop_reason: str = "end_turn"


class Status(msgspec.Struct, frozen=True):
    """An answer that is no stream."""

    status: int
    type: str = "api_error"
    message: str = "Something is wrong"
    headers: dict[str, str] = {}


class Request(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeAnthropic:
    """Answers each request with the next entry of `script`, and with an Answer when there is none left."""

    def __init__(self) -> None:
        self.script: deque[Answer | Status] = deque()
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()  # a client closed its connection in the middle of an answer
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeAnthropic"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(Request(head[0].split(" ")[1], headers, json.loads(body)))
            reply = self.script.popleft() if self.script else Answer()
            if isinstance(reply, Status):
                writer.write(_whole(reply))
            else:
                await self._stream(reply, reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _stream(self, reply: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        for event in _events(reply):
            writer.write(_chunk(event))
            await writer.drain()
        if reply.ends == "never":
            await reader.read()  # the client sends nothing more: this is its end of the connection
            self.hung_up.set()
        elif reply.ends != "cut":
            writer.write(b"0\r\n\r\n")


def _events(reply: Answer) -> list[dict[str, Any]]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 1},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in reply.pieces
        ),
    ]
    if reply.ends == "error":
        events.append({"type": "error", "error": {"type": reply.error, "message": "Told in the stream"}})
    if reply.ends == "whole":
        events += [
            {"type": "content_block_stop", "index": 0},
            {
                "type": "message_delta",
                "delta": {"stop_reason": reply.stop_reason, "stop_sequence": None},
                "usage": {"output_tokens": 22},
            },
            {"type": "message_stop"},
        ]
    return events


def _chunk(event: dict[str, Any]) -> bytes:
    data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def _whole(reply: Status) -> bytes:
    body = json.dumps({"type": "error", "error": {"type": reply.type, "message": reply.message}}).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    return (
        f"HTTP/1.1 {reply.status} Said So\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n{headers}\r\n"
    ).encode() + body
