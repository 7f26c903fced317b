"""Clients that do not read: the API keeps a bounded number of bytes for each, and closes their connections."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.config import Settings
from tests.support.api_client import Client
from tests.support.api_server import ApiServer, api_server
from tests.support.randomness import incompressible
from tests.support.waiting import LIMIT_SECONDS, until

LARGE = 4_000_000  # more than the kernel buffers


@pytest.fixture
async def server(settings: Settings, register_agents: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    monkeypatch.setattr("service.api.write_deadline.CHECK_SECONDS", 0.2)
    await register_agents()
    async with api_server(settings, max_message_chars=2 * LARGE, max_body_bytes=2 * LARGE) as running:
        yield running


async def ask(server: ApiServer, path: str) -> socket.socket:
    """Submit a large message in the thread t, and send a request on a connection that buffers little."""
    async with Client(f"http://127.0.0.1:{server.port}") as client:
        message_id = await client.submit(incompressible(LARGE), thread_id="t")
    await until(lambda: not server.connections)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", server.port))
    request = f"GET {path.format(message_id)} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    return connection


async def read_to_the_end(connection: socket.socket, pause_seconds: float = 0.0) -> int:
    """How many bytes arrive until the server closes."""
    received = 0
    while data := await asyncio.get_running_loop().sock_recv(connection, 65_536):
        received += len(data)
        await asyncio.sleep(pause_seconds)
    connection.close()
    return received


@pytest.mark.parametrize("path", ["/messages/{}/status", "/threads/t/messages", "/messages/{}/stream"])
async def test_a_client_that_does_not_read_is_disconnected(server: ApiServer, path: str) -> None:
    deaf = await ask(server, path)
    await until(lambda: server.connections)
    await until(lambda: not server.connections)
    assert await read_to_the_end(deaf) < LARGE


async def test_a_client_that_reads_slowly_receives_all(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # A busy machine may pause the client, too.
    monkeypatch.setattr("service.api.write_deadline.CHECK_SECONDS", LIMIT_SECONDS)
    assert await read_to_the_end(await ask(server, "/messages/{}/status"), 0.001) > LARGE
