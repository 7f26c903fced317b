"""A fake Messages API on loopback, over real HTTP: it answers as its script says, and records the requests."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """A stream of these pieces of text, and of whole content blocks after them. It ends as `ends` says: 'whole';
    'early', cleanly but without the last events; 'cut', in the middle of the body; 'error', with an error event;
    'never', when the client disconnects. `usage` is added to the counts at its start."""

    pieces: tuple[str, ...] = ("Hello", ", ", "world")
    ends: str = "whole"
    error: str = "overloaded_error"
    stop_reason: str = "end_turn"
    blocks: tuple[dict[str, Any], ...] = ()
    usage: dict[str, Any] = {}
    stop_details: dict[str, Any] | None = None


def tool_calls(*calls: tuple[str, str, Any], pieces: tuple[str, ...] = (), **fields: Any) -> Answer:
    """An answer that asks for tools: the id, name and input of each call."""
    blocks = tuple({"type": "tool_use", "id": id, "name": name, "input": input} for id, name, input in calls)
    return Answer(pieces, **{"stop_reason": "tool_use", "blocks": blocks, **fields})


class Status(msgspec.Struct, frozen=True):
    """An answer that is not a stream."""

    status: int
    type: str = "api_error"
    message: str = "Something is wrong"
    headers: dict[str, str] = {}


class Request(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeAnthropic:
    """Answers each request with the next entry of `script`, or with a plain Answer if the script is empty."""

    def __init__(self) -> None:
        self.script: deque[Answer | Status] = deque()
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()  # a client closed its connection in the middle of an answer
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def reply(self, request: Request) -> Answer | Status:
        return self.script.popleft() if self.script else Answer()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeAnthropic"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request for each connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(Request(head[0].split(" ")[1], headers, json.loads(body)))
            reply = self.reply(self.requests[-1])
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
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-test",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 11, "output_tokens": 1, **reply.usage},
    }
    events: list[dict[str, Any]] = [{"type": "message_start", "message": message}, {"type": "ping"}]
    number = -1
    if reply.pieces or not reply.blocks:
        number = 0
        events += _begun(number, {"type": "text"}, reply.pieces)
    if reply.ends == "error":
        events.append({"type": "error", "error": {"type": reply.error, "message": "Told in the stream"}})
    if reply.ends != "whole":
        return events
    if number == 0:
        events.append({"type": "content_block_stop", "index": 0})
    for block in reply.blocks:
        number += 1
        events += [*_begun(number, block), {"type": "content_block_stop", "index": number}]
    delta = {"stop_reason": reply.stop_reason, "stop_sequence": None, "stop_details": reply.stop_details}
    return [
        *events,
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 22}},
        {"type": "message_stop"},
    ]


def _begun(number: int, block: dict[str, Any], pieces: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """A block's start and what follows until its end."""
    start, deltas = block, []
    match block["type"]:
        case "text":
            start = {**block, "text": ""}
            deltas = [
                {"type": "text_delta", "text": piece} for piece in (pieces if pieces is not None else [block["text"]])
            ]
        case "thinking":
            start = {**block, "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": half} for half in _halves(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        case "tool_use":
            start = {**block, "input": {}}
            halves = _halves(json.dumps(block["input"]))
            deltas = [{"type": "input_json_delta", "partial_json": half} for half in halves]
    return [
        {"type": "content_block_start", "index": number, "content_block": start},
        *({"type": "content_block_delta", "index": number, "delta": delta} for delta in deltas),
    ]


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


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
