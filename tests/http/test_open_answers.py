"""Answers that stay open: they keep nothing of their request, and end with their connection."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Request

from service.config import Settings
from tests.support.api_client import Client
from tests.support.api_server import ApiServer, api_server
from tests.support.fixture_types import StartApi
from tests.support.sse_reader import open_stream
from tests.support.waiting import LIMIT_SECONDS, until

STREAM = b"GET /threads/t/stream HTTP/1.1\r\nhost: localhost\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
POST = b"POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: 30000\r\n\r\n"


@pytest.fixture
async def server(settings: Settings, register_agents: Any) -> AsyncIterator[ApiServer]:
    await register_agents()
    async with api_server(settings, poll_interval=600.0, keepalive_interval=600.0) as running:
        async with Client(running.url) as client:
            await client.submit("x", thread_id="t")
        await until(lambda: not running.connections)
        yield running


def open_readers(server: ApiServer) -> int:
    return len(list(server.api.parts.feed._readers))


async def ask(server: ApiServer, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request for a stream, and read its first event."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await asyncio.wait_for(reader.readuntil(b"event: queued"), LIMIT_SECONDS)
    return reader, writer


async def test_an_open_stream_keeps_one_task_and_nothing_of_its_request(server: ApiServer) -> None:
    async with Client(server.url) as client, open_stream(client, "/threads/t/stream") as first:
        await first.until("queued")
        before = asyncio.all_tasks()
        async with open_stream(client, "/threads/t/stream") as second:
            await second.until("queued")
            await until(lambda: len(asyncio.all_tasks() - before), lambda count: count == 1)  # a hint may be read now
            gc.collect()
            assert [kept for kept in gc.get_objects() if isinstance(kept, Request)] == []
            for connection in server.connections:
                assert dict(connection.cycle.scope) == dict(connection.scope) == {"method": "GET"}


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"\r\n", b""),
        (b"\r\n", LIVE),
        (b"\r\n" + LIVE, b""),
        (b"\r\n", LIVE + LIVE[:20]),
        (b"\r\n", POST + b"x" * 20_000),
        (b"\r\n", LIVE[:20]),
        (b"content-length: 200000\r\n\r\n", b"x" * 150_000),
    ],
    ids=[
        "nothing",
        "a second request",
        "a second request from the beginning on",
        "half of a third request",
        "half of a second body",
        "half of a second request",
        "half of a body",
    ],
)
async def test_a_stream_ends_when_its_client_leaves(server: ApiServer, head: bytes, more: bytes) -> None:
    """At once: its keepalives, which would fail, come too late for the test."""
    _, writer = await ask(server, STREAM + head)
    assert open_readers(server) == 1
    writer.write(more)
    await writer.drain()
    writer.transport.abort()
    await until(lambda: open_readers(server) == 0)


async def test_a_stream_whose_parts_are_never_sent_leaves_no_reader(server: ApiServer) -> None:
    """Its first events were read before the head of the answer."""
    async with Client(server.url) as client:
        message_id = await client.submit("x", delay_seconds=600)
        assert (await client.head(f"/messages/{message_id}/stream")).status_code == 200
        await until(lambda: open_readers(server) == 0)


async def test_a_connection_goes_on_after_a_stream(server: ApiServer) -> None:
    """Also with what the client has sent meanwhile."""
    reader, writer = await ask(server, STREAM + b"\r\n" + LIVE + LIVE[:9])
    async with Client(server.url) as client:
        await client.delete("/threads/t")
    rest = await asyncio.wait_for(reader.readuntil(b'ok"}'), LIMIT_SECONDS)
    assert rest.index(b'"deleted": true') < rest.index(b"\r\n0\r\n\r\n") < rest.index(b"HTTP/1.1 200 OK")
    writer.write(LIVE[9:])
    assert (await asyncio.wait_for(reader.readuntil(b'ok"}'), LIMIT_SECONDS)).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_what_arrives_during_a_stream_is_read_after_it(server: ApiServer) -> None:
    """In one piece or in many, also more than the server keeps meanwhile. 1,000 requests wait, and one with a body."""
    reader, writer = await ask(server, STREAM + b"\r\n" + LIVE)
    whole = LIVE * 999 + POST + b"x" * 30_000 + LIVE
    for start in range(0, len(whole), 7001):
        writer.write(whole[start : start + 7001])
        await asyncio.sleep(0)
    async with Client(server.url) as client:
        await client.delete("/threads/t")
    for status in (b"200 OK", *[b"200 OK"] * 999, b"415 Unsupported Media Type", b"200 OK"):
        await asyncio.wait_for(reader.readuntil(b"HTTP/1.1 "), LIMIT_SECONDS)
        assert (await asyncio.wait_for(reader.readline(), LIMIT_SECONDS)).strip() == status
    writer.close()


async def test_the_head_of_a_stream_counts_as_no_open_stream(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    api = await start_api(client_open_streams=1, trusted_proxies=("127.0.0.0/8",))
    await api.submit("x", thread_id="t")
    for _ in range(2):
        assert (await api.head("/threads/t/stream")).status_code == 200
    async with open_stream(api, "/threads/t/stream") as stream:
        await stream.until("queued")


async def test_no_refusal_of_a_later_request_gets_into_an_open_answer(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = await ask(server, STREAM + b"\r\n")
    monkeypatch.setattr("service.api.server.ARRIVAL_SECONDS", 0.1)  # of the second request, and not of the first
    writer.write(LIVE[:20])
    rest = await asyncio.wait_for(reader.read(), LIMIT_SECONDS)  # to the end of the connection
    assert b"HTTP/1.1" not in rest
    writer.close()
