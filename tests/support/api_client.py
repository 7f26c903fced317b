"""A client of one API."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

from tests.support.waiting import LIMIT_SECONDS, until


class ServerEvent(msgspec.Struct, frozen=True):
    id: int | None
    type: str
    data: Any


async def read_events(answer: httpx.Response) -> AsyncIterator[ServerEvent]:
    """Server-sent events of a response, comments and `retry:` left out."""
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
        elif not line and fields:
            if "data" in fields:
                yield ServerEvent(
                    int(fields["id"].partition("-")[0]) if "id" in fields else None,
                    fields.get("event", "message"),
                    json.loads(fields["data"]),
                )
            fields = {}


class Client(httpx.AsyncClient):
    """A client of one API, with the two calls most tests make."""

    def __init__(self, url: str) -> None:
        # An idle connection stays open, as it does at the server. To load certificates would take 30 ms each time.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=LIMIT_SECONDS)
        super().__init__(base_url=url, timeout=LIMIT_SECONDS, limits=limits, verify=False)

    async def submit(self, message: Any, **fields: Any) -> str:
        """Submit a message that must be accepted; returns its id."""
        answer = await self.post("/messages", json={"message": message, **fields})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["message_id"])

    async def status(self, message_id: str) -> dict[str, Any]:
        answer = await self.get(f"/messages/{message_id}/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def settled(self, message_id: str, *states: str) -> dict[str, Any]:
        """Wait until the message is in one of these states (by default: over); returns its status."""
        wanted = states or ("completed", "failed", "cancelled")
        return dict(await until(lambda: self.status(message_id), lambda status: status["state"] in wanted))

    async def events(self, message_id: str, after: int | None = None) -> list[ServerEvent]:
        """Read a message's stream to its end. Events that tell its place in the queue are left out: how many there are
        depends on how soon a worker claims it."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        async with self.stream("GET", f"/messages/{message_id}/stream", headers=headers) as answer:
            return [event async for event in read_events(answer) if event.type != "waiting"]
