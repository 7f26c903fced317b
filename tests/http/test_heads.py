"""The head of a request has a size limit, and a whole request has a deadline to arrive."""

import asyncio
import contextlib
from typing import Any

import pytest

from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.raw_http import exchange
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import open_stream, stream_path, types
from tests.support.waiting import LIMIT_SECONDS

LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def test_an_endless_header_is_431(api: Client) -> None:
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    answer = b""
    with contextlib.suppress(ConnectionError):  # the server may close before the response is read
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nendless: ")
        for _ in range(40):
            writer.write(b"x" * 50_000)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(1000), LIMIT_SECONDS)
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    writer.close()
    assert (await api.get("/health/live")).status_code == 200


async def test_the_head_limit_does_not_count_bodies_or_earlier_requests(api: Client) -> None:
    for _ in range(3):
        answer = await api.post("/messages", json={"message": "x" * 90_000, "metadata": {"text": "y" * 2_000_000}})
        assert answer.status_code == 202


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.server.ARRIVAL_SECONDS", 0.5)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health/live HTTP/1.1\r\nho",
        b"POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
    ],
    ids=["nothing", "half a head", "half of a second head", "half a body"],
)
async def test_a_request_that_does_not_arrive_in_time_is_closed(
    api: Client, part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not part:  # the time of a connection without a request begins when it is opened
        monkeypatch.setattr("service.api.server.ARRIVAL_SECONDS", 0.5)
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    if part:  # that of a request with its first byte
        writer.write(LIVE)
        await asyncio.wait_for(reader.readuntil(b'ok"}'), LIMIT_SECONDS)
        monkeypatch.setattr("service.api.server.ARRIVAL_SECONDS", 0.5)
    writer.write(part)
    answer = await asyncio.wait_for(reader.read(), LIMIT_SECONDS)  # to its end
    assert answer.count(b"HTTP/1.1 200") == part.count(b"\r\n\r\nGET")
    assert answer.count(b"HTTP/1.1 408") == (1 if part else 0)
    writer.close()


async def test_an_idle_connection_is_closed_after_its_timeout(start_api: StartApi, register_agents: Any) -> None:
    await register_agents()
    patient, hasty_api = await start_api(), await start_api(connection_idle_timeout=0.1)
    request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    kept, kept_writer = await asyncio.open_connection(patient.base_url.host, patient.base_url.port)
    closed, closed_writer = await asyncio.open_connection(hasty_api.base_url.host, hasty_api.base_url.port)
    for writer in (kept_writer, closed_writer):
        writer.write(request)
    assert (await asyncio.wait_for(closed.read(), LIMIT_SECONDS)).startswith(b"HTTP/1.1 200")  # to its end
    kept_writer.write(request)
    for _ in range(2):
        assert (await asyncio.wait_for(kept.readuntil(b'ok"}'), LIMIT_SECONDS)).startswith(b"HTTP/1.1 200")
    for writer in (kept_writer, closed_writer):
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_the_arrival_deadline_does_not_end_an_open_stream(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await scripted_api.submit("go")
    async with open_stream(scripted_api, stream_path(message_id)) as stream:
        await stream.until("started")
        later, writer = await asyncio.open_connection(scripted_api.base_url.host, scripted_api.base_url.port)
        await asyncio.wait_for(later.read(), LIMIT_SECONDS)  # an idle connection is closed by the deadline
        writer.close()
        script.say(message_id, "text", None)
        assert types(await stream.rest()) == ["chunk", "done"]


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("packets", [1, 3])
async def test_a_head_has_at_most_65536_bytes(api: Client, excess: int, packets: int) -> None:
    """Whether it comes in one packet or in several, and behind another request."""
    start, end = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nlong: ", b"\r\n\r\n"
    head = start + b"x" * (65_536 + excess - len(start) - len(end)) + end
    parts = [head[place : place + len(head) // packets + 1] for place in range(0, len(head), len(head) // packets + 1)]
    before = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    for first in (parts[0], before + parts[0]):
        reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
        for part in (first, *parts[1:]):
            writer.write(part)
            await writer.drain()
        end = b"bytes." if excess else b'ok"}'
        answer = await asyncio.wait_for(reader.readuntil(end), LIMIT_SECONDS)
        if first is not parts[0] and not excess:
            answer = await asyncio.wait_for(reader.readuntil(end), LIMIT_SECONDS)
        assert answer.count(b"HTTP/1.1 431") == excess
        writer.close()


@pytest.mark.parametrize("excess", [0, 1])
async def test_trailers_have_at_most_65536_bytes(api: Client, excess: int) -> None:
    body = b'{"message": "x"}'
    head = (
        b"POST /messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    )
    trailers = b"long: " + b"x" * (65_536 + excess - len("long: \r\n")) + b"\r\n\r\n"
    [answer] = await exchange(api, head + trailers)
    assert answer.status_code == (431 if excess else 202)
