"""A fake MCP server over HTTP with one tool, `look`: it answers calls of it, and begins, as its script says."""

import asyncio
import contextlib
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

RESULTS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "fake", "version": "1"},
    },
    "tools/list": {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": "seen"}]},
}


class Refusal(NamedTuple):
    """An answer in place of the result. With `error` its body is an error of JSON-RPC; `is_json`: other JSON."""

    status: int
    retry_after: str = ""
    error: str | None = None
    is_json: bool = False


class FakeMcp:
    def __init__(self) -> None:
        self.script: defaultdict[str, deque[Refusal]] = defaultdict(deque)  # by the method
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/mcp"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["FakeMcp"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with self._server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request for each connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            lengths = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            status, headers, answer = self._answer(json.loads(body)) if head.startswith("post") else (405, {}, b"no")
            fields = {**headers, "Content-Length": str(len(answer)), "Connection": "close"}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
            writer.write(f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode() + answer)
            await writer.drain()
        writer.close()

    def _answer(self, call: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        method, json_type = call["method"], {"Content-Type": "application/json"}
        if "id" not in call:
            return 202, {}, b""
        reply = {"jsonrpc": "2.0", "id": call["id"]}
        if self.script[method]:
            refusal = self.script[method].popleft()
            headers = {"Retry-After": refusal.retry_after}
            if refusal.is_json:
                return refusal.status, headers | json_type, b'{"message": "Internal server error"}'
            if refusal.error is None:
                return refusal.status, {**headers, "Content-Type": "text/html"}, b"<p>no</p>"
            error = {"code": -32603, "message": refusal.error}
            return refusal.status, headers | json_type, json.dumps(reply | {"error": error}).encode()
        if method not in RESULTS:
            unknown = {"code": -32601, "message": "Method not found"}
            return 200, json_type, json.dumps(reply | {"error": unknown}).encode()
        session = {"Mcp-Session-Id": "s"} if method == "initialize" else {}
        return 200, session | json_type, json.dumps(reply | {"result": RESULTS[method]}).encode()
