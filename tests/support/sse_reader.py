"""A strict reader of server-sent events."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

from tests.support.api_client import Client
from tests.support.waiting import LIMIT_SECONDS

STREAM_TIMEOUT_SECONDS = LIMIT_SECONDS  # seconds, after which a stream that says nothing is a failure


class Event(msgspec.Struct, frozen=True):
    id: int | None  # its seq, or its position in a thread's stream
    type: str
    data: Any
    mark: str | None = None  # the second part of an id of a thread's stream

    @property
    def last_event_id(self) -> str:
        return f"{self.id}-{self.mark}" if self.mark else str(self.id)


Comment = str
RETRY_LINE = "retry: 1000"


def parse(block: bytes) -> Event | Comment:
    """One block of a stream, strictly: an event (event, then data, then an id or none, each on one line), a comment,
    or the request to come back."""
    text = block.decode()
    if text == RETRY_LINE or re.fullmatch(r": \w+", text):
        return text
    found = re.fullmatch(r"event: ([^\r\n]+)\ndata: ([^\r\n]+)(?:\nid: (\d+)(?:-([0-9a-f]+))?)?", text)
    assert found, text
    return Event(int(found[3]) if found[3] else None, found[1], json.loads(found[2]), found[4])


async def blocks(answer: httpx.Response) -> AsyncIterator[Event | Comment]:
    """Everything a stream says, as it comes."""
    assert answer.status_code == 200
    buffer = b""
    async for part in answer.aiter_raw():
        buffer += part
        while (end := buffer.find(b"\n\n")) >= 0:
            yield parse(buffer[:end])
            buffer = buffer[end + 2 :]
    assert buffer == b""


class Reader:
    """An open stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._blocks = blocks(answer)

    async def next(self) -> Event | Comment:
        return await anext(self._blocks)

    async def event(self, *, waiting: bool = False) -> Event:
        """The next event; those that tell the place in the queue are passed over, unless they are wanted."""
        while True:
            block = await self.next()
            if isinstance(block, Event) and (waiting or block.type != "waiting"):
                return block

    async def until(self, type: str) -> list[Event]:
        """Events up to the first of this type."""
        events = [await self.event()]
        while events[-1].type != type:
            events.append(await self.event())
        return events

    async def rest(self) -> list[Event]:
        """Events to the end of the stream, which must be an orderly one."""
        return [block async for block in self._blocks if isinstance(block, Event) and block.type != "waiting"]

    async def ended(self) -> bool:
        return [block async for block in self._blocks] == []


@contextlib.asynccontextmanager
async def open_stream(
    api: Client, path: str, *, header: int | str | None = None, query: int | str | None = None
) -> AsyncIterator[Reader]:
    """Open a stream at a cursor; leaving the block drops the connection."""
    headers = {} if header is None else {"Last-Event-ID": str(header)}
    params = None if query is None else {"after": query}  # {} would remove the query of the path
    async with (
        asyncio.timeout(STREAM_TIMEOUT_SECONDS),
        api.stream("GET", path, headers=headers, params=params) as answer,
    ):
        yield Reader(answer)


def stream_path(message_id: str) -> str:
    return f"/messages/{message_id}/stream"


async def stored_log(api: Client, message_id: str) -> list[Event]:
    """The whole log by the other route."""
    page = (await api.get(f"/messages/{message_id}/events", params={"limit": 1000})).json()
    return [Event(event["seq"], event["type"], event["data"]) for event in page["events"]]


def types(events: list[Event]) -> list[str]:
    return [event.type for event in events]


def event_ids(events: list[Event]) -> list[int | None]:
    return [event.id for event in events]
