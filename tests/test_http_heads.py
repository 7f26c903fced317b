"""A request's head has a limit."""

import asyncio
import contextlib

from conftest import Client


async def test_an_endless_header_is_cut_off(api: Client) -> None:
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    answer = b""
    with contextlib.suppress(ConnectionError):  # cut off while we write: the answer may not reach us
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\nendless: ")
        for _ in range(40):
            writer.write(b"x" * 50_000)
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(1000), 10)
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer
    writer.close()
    assert (await api.get("/health/live")).status_code == 200


async def test_large_bodies_and_many_requests_on_a_connection_pass(api: Client) -> None:
    for _ in range(3):
        answer = await api.post("/messages", json={"message": "x" * 90_000, "metadata": {"text": "y" * 2_000_000}})
        assert answer.status_code == 202
