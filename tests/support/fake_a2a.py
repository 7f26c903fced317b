"""A system that speaks A2A over JSON-RPC on loopback, as the test tells it."""

import asyncio
import contextlib
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any

Answer = dict[str, Any] | list[dict[str, Any]] | None


def task(state: str, *texts: str) -> dict[str, Any]:
    parts = [{"text": text} for text in texts]
    artifacts = [{"artifactId": "a", "parts": parts}] if texts else []
    return {"id": "t", "contextId": "c", "status": {"state": f"TASK_STATE_{state}"}, "artifacts": artifacts}


class FakeA2A:
    """`answers` has those that each method gives, one after another: an object, which may be an error; the events of a
    stream, which ends after them; or None for no answer at all. `card_url` is the address that the card names."""

    def __init__(self) -> None:
        self.answers: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self.methods: list[str] = []
        self.heads: list[str] = []
        self.encoding = "identity"
        self.asked = asyncio.Event()  # for something that has no answer
        self.hung_up = asyncio.Event()  # by the client that waited for it
        self.url = self.card_url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeA2A"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = self.card_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request for each connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if head.startswith("GET "):
                writer.write(self._written(self._card()))
            else:
                lines = head.lower().split("\r\n")
                [length] = [line.split(": ")[1] for line in lines if line.startswith("content-length")]
                method = json.loads(await reader.readexactly(int(length)))["method"]
                self.methods.append(method)
                answer = self.answers[method].popleft()
                if answer is None:
                    self.asked.set()
                    await reader.read()  # to the client's end of the connection
                    self.hung_up.set()
                else:
                    writer.write(self._written(answer))
            await writer.drain()
        writer.close()

    def _card(self) -> dict[str, Any]:
        interface = {"url": self.card_url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
        card = {"name": "fake", "description": "A fake.", "version": "1", "supportedInterfaces": [interface]}
        return {**card, "capabilities": {"streaming": True}}

    def _written(self, answer: dict[str, Any] | list[dict[str, Any]]) -> bytes:
        kind, body = "application/json", json.dumps(answer if isinstance(answer, list) else _result(answer))
        if isinstance(answer, list):
            kind, body = "text/event-stream", "".join(f"data: {json.dumps(_result(event))}\n\n" for event in answer)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Encoding: {self.encoding}\r\nConnection: close\r\n"
        return f"{head}\r\n{body}".encode()


def _result(value: dict[str, Any]) -> dict[str, Any]:
    if "supportedInterfaces" in value:
        return value
    return {"jsonrpc": "2.0", "id": "1", **(value if "error" in value else {"result": value})}
