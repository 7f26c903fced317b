"""Chats in trouble: slow or silent clients, a lost database, a stopping process."""

import asyncio
import base64
import json
import os
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faults.proxy import Proxy
from service.config import Settings
from tests.support.api_client import Client
from tests.support.api_server import ApiServer, api_server
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.ports import with_closed_port
from tests.support.proxies import database_proxy, dsn_through
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from tests.support.websocket_client import (
    SOCKET_TIMEOUT_SECONDS,
    assert_whole_transcript,
    chat_url,
    event_types,
    log_frames,
    open_socket,
)
from tests.support.websocket_client import stored_events as log_of
from treadle import Context, agent

# Slow and silent clients


@agent("torrent")
async def torrent(context: Context, text: str) -> str:
    """Emits more than all buffers hold."""
    for _ in range(300):
        await context.emit(text)
    return "said"


@pytest.fixture
async def flooded(start_api: StartApi, start_worker: StartWorker) -> Client:
    """A thread with 15 MB of events."""
    await start_worker(torrent)
    api = await start_api()
    await api.settled(await api.submit("x" * 50_000, agent="torrent", thread_id="t"))
    return api


async def test_a_slow_reader_is_closed_and_uses_little_memory(settings: Settings, flooded: Client) -> None:
    async with api_server(settings, keepalive_interval=0.5) as served, open_socket(chat_url(served, "t")) as chat:
        [connection] = served.connections  # before the server can have given the client up
        seen = [await chat.frame() for _ in range(5)]  # then the client stops reading
        held = []

        async def closed() -> bool:
            held.append(connection.transport.get_write_buffer_size())
            return not served.connections

        await until(closed)
        assert max(held) < 300_000  # the limit and one frame
        await until(lambda: not served.server._api.parts.feed._readers)
        frames, _ = await chat.rest()  # frames that were already sent
        seen += frames
    assert [frame["id"] for frame in log_frames(seen)] == list(range(1, len(log_frames(seen)) + 1))
    assert len(log_frames(seen)) < 300
    async with open_socket(chat_url(flooded, "t", after=log_frames(seen)[-1]["id"])) as chat:
        seen += await chat.until(event="done")
    assert_whole_transcript(seen, await log_of(flooded, "t", 303))


class Bare:
    """A client without automatic answers to pings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, served: ApiServer, thread_id: str) -> "Bare":
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /ws/{thread_id} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        return cls(reader, writer)

    async def frame(self) -> tuple[int, bytes] | None:
        """Opcode and content; None at the end."""
        async with asyncio.timeout(SOCKET_TIMEOUT_SECONDS):
            try:
                first, size = await self._reader.readexactly(2)
                if size == 126:
                    [size] = struct.unpack("!H", await self._reader.readexactly(2))
                return first & 15, await self._reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    def send(self, opcode: int, content: bytes) -> None:
        masked = bytes(byte ^ key for byte, key in zip(content, b"mask" * 99, strict=False))
        self._writer.write(bytes([0x80 | opcode, 0x80 | len(content)]) + b"mask" + masked)

    def close(self) -> None:
        self._writer.close()

    def say_no_more(self) -> None:
        self._writer.write_eof()


TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


async def test_a_client_that_half_closes_without_reading_is_cleaned_up(settings: Settings, flooded: Client) -> None:
    async with api_server(settings) as served:
        client = await Bare.open(served, "t")
        client.say_no_more()
        await until(lambda: not served.connections and not served.server._api.parts.feed._readers)
        client.close()


async def test_a_handshake_with_too_long_a_header_is_refused(api: Client) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.base_url.port)
    writer.write(
        b"GET /ws/t HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nCookie: "
        + b"x" * 20_000
        + b"\r\n\r\n"
    )
    async with asyncio.timeout(SOCKET_TIMEOUT_SECONDS):
        assert (await reader.readline()).split()[1] in {b"400", b"431"}  # websockets 16 says 400
        await reader.read()  # to the end
    writer.close()
    async with open_socket(chat_url(api, "t")) as chat:
        assert (await chat.frame())["status"] == "open"


@pytest.mark.parametrize("alive", ["pong", "text"])
async def test_a_silent_client_is_closed_and_a_responding_one_is_not(
    settings: Settings, register_agents: Any, alive: str
) -> None:
    await register_agents()
    async with api_server(settings, keepalive_interval=0.5) as served:
        client = await Bare.open(served, "t")
        answered = 0
        frames = []
        while (frame := await client.frame()) is not None:
            frames.append(frame[0])
            if frame[0] == PING and answered < 3:
                answered += 1
                if alive == "pong":
                    client.send(PONG, frame[1])
                else:
                    client.send(
                        TEXT, json.dumps({"type": "ping"}).encode()
                    )  # any data counts, as a pong may come behind it
        assert answered == 3
        assert frames.count(PING) == 4
        assert frames[-1] == CLOSE
        await until(lambda: not served.connections)
        client.close()


# The database and the process


@pytest.fixture
async def way(dsn: str) -> AsyncIterator[Proxy]:
    """A proxy to the database that can be cut."""
    async with database_proxy(dsn) as proxy:
        yield proxy


async def test_without_a_database_a_chat_is_told_to_retry(dsn: str, start_api: StartApi) -> None:
    api = await start_api(database_url=with_closed_port(dsn))
    async with open_socket(chat_url(api, "t")) as chat:
        [error], code = await chat.rest()
        assert "PostgreSQL cannot be reached" in error["detail"]
        assert (error["retry_after"], code) == (1, 1013)


@pytest.mark.parametrize("asking", [False, True])
async def test_a_lost_database_ends_the_chat_until_it_returns(
    scripted_api: Client, script: ScriptedAgent, start_api: StartApi, dsn: str, way: Proxy, asking: bool
) -> None:
    api = await start_api(database_url=dsn_through(dsn, way))
    async with open_socket(chat_url(api, "t")) as chat:
        await chat.send("user_input", text="x", agent="script", key="1")
        seen = await chat.until(event="started")
        there, way.target = way.target, 1
        way.cut()
        if asking:
            await chat.send("user_input", text="y", agent="script", key="2")
        frames, code = await chat.rest()
        assert code == 1013
        assert frames[-1]["type"] == "error"
        assert not log_frames(frames)
    [message_id] = {frame["message_id"] for frame in log_frames(seen)}
    script.say(message_id, "meanwhile", None)
    await scripted_api.settled(message_id)
    way.target = there
    async with open_socket(chat_url(api, "t", after=log_frames(seen)[-1]["id"])) as chat:
        assert event_types(await chat.until(event="done")) == ["chunk", "done"]


@pytest.mark.usefixtures("patient_stop")
async def test_a_stopping_api_closes_chats_with_service_restart(
    settings: Settings, scripted_api: Client, script: ScriptedAgent
) -> None:
    async with api_server(settings) as served:
        async with open_socket(chat_url(served, "t")) as chat, open_socket(chat_url(served, "idle")) as idle:
            await chat.send("user_input", text="x", agent="script")
            seen = await chat.until(event="started")
            await idle.frame()
            [message_id] = {frame["message_id"] for frame in log_frames(seen)}
            script.say(message_id, "before")
            seen += await chat.until(event="chunk")
            stopping = asyncio.create_task(served.stop())
            assert await chat.rest() == ([], 1012)
            assert await idle.rest() == ([], 1012)
            await stopping
        script.say(message_id, "while it was away", None)
        await served.start()
        async with open_socket(chat_url(served, "t", after=log_frames(seen)[-1]["id"])) as chat:
            seen += await chat.until(event="done")
        assert_whole_transcript(seen, await log_of(scripted_api, "t", 5))


# Floods, and frames that are no text


async def test_a_flood_of_frames_closes_the_socket(api: Client) -> None:
    fragment = struct.pack("!BB4s", 0x00, 0x80, b"mask")
    ping = struct.pack("!BB4s", 0x89, 0x80, b"mask")
    for flood in (struct.pack("!BB4s", 0x01, 0x80, b"mask") + fragment * 200_000, ping * 200_000):
        async with open_socket(chat_url(api, "t")) as chat:
            await chat.frame()
            for start in range(0, len(flood), 50_000):
                chat.connection.transport.write(flood[start : start + 50_000])
            _, code = await chat.rest()
            assert code in (1008, None)  # None: the connection broke before the client read the close frame
    assert (await api.get("/health/live")).status_code == 200


async def test_a_text_that_is_no_utf_8_closes_the_socket(api: Client, caplog: pytest.LogCaptureFixture) -> None:
    for fragments in ([b"\xff\xfe"], [b'{"type": "ping', b'\xc3"}']):
        async with open_socket(chat_url(api, "t")) as chat:
            await chat.frame()
            await chat.connection.send(fragments if len(fragments) > 1 else fragments[0], text=True)
            assert (await chat.rest())[1] == 1007
    assert not [record for record in caplog.records if record.exc_info]
