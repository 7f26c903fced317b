"""A fake API with OpenAI's chat completions on loopback: it answers as its script says, and records the requests."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgspec


class Reply(msgspec.Struct, frozen=True):
    """A stream of these deltas; with a status of 400 or more, an error instead, with these headers. It ends as `ends`
    says: 'whole'; 'early', without a finish_reason; 'error', with an error in the stream; 'never'. Some servers end it
    'without a reason', or 'without a delta' in the chunk of the reason."""

    deltas: tuple[dict[str, Any], ...] = ({"content": "Hello"}, {"content": ", world"})
    finish_reason: str = "stop"
    ends: str = "whole"
    status: int = 200
    code: str | None = None
    message: str = "Something is wrong"
    headers: dict[str, str] = {}


def calls(*asked: tuple[str, str, Any], text: str = "") -> Reply:
    """An answer that asks for tools: the id, name and arguments of each call, the arguments in two pieces."""
    deltas: list[dict[str, Any]] = [{"content": text}] if text else []
    for index, (id, name, given) in enumerate(asked):
        written = json.dumps(given)
        first = {"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": written[:3]}}
        deltas += [{"tool_calls": [part]} for part in (first, {"index": index, "function": {"arguments": written[3:]}})]
    return Reply(tuple(deltas), "tool_calls")


class FakeOpenAI:
    """Answers each request with the next entry of `script`, or with a plain Reply if the script is empty."""

    def __init__(self) -> None:
        self.script: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.hung_up = asyncio.Event()  # a client closed its connection in the middle of an answer
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeOpenAI"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request for each connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            [length] = [line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("content-length")]
            self.headers.append(head)
            self.requests.append(json.loads(await reader.readexactly(int(length))))
            reply = self.script.popleft() if self.script else Reply()
            writer.write(_written(reply))
            await writer.drain()
            if reply.ends == "never":
                await reader.read()  # the client sends nothing more: this is its end of the connection
                self.hung_up.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()


def _written(reply: Reply) -> bytes:
    if reply.status >= 400:
        body = json.dumps({"error": {"message": reply.message, "type": "api_error", "code": reply.code}})
        headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        head = f"HTTP/1.1 {reply.status} No\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}\r\n"
        return (head + body).encode()
    chunks: list[Any] = [_chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in reply.deltas]
    if reply.ends == "error":
        chunks.append({"error": {"message": reply.message, "type": "server_error", "code": reply.code}})
    if reply.ends in ("whole", "without a delta"):
        delta: dict[str, Any] | None = {} if reply.ends == "whole" else None
        chunks.append(_chunk([{"index": 0, "delta": delta, "finish_reason": reply.finish_reason}]))
    is_whole = reply.ends in ("whole", "without a reason", "without a delta")
    if is_whole:
        usage = {"prompt_tokens": 11, "completion_tokens": 22, "total_tokens": 33}
        chunks.append(_chunk([], usage=usage | {"prompt_tokens_details": {"cached_tokens": 4}}))
    data = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    end = "data: [DONE]\n\n" if is_whole else ""
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n{data}{end}".encode()


def _chunk(choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test", "choices": choices}
    return chunk | ({"usage": usage} if usage else {})
