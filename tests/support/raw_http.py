"""Requests as bytes, for what no HTTP client sends."""

import asyncio

import httpx

from tests.support.api_client import Client
from tests.support.waiting import LIMIT_SECONDS


async def exchange(api: Client, *parts: bytes, answers: int = 1) -> list[httpx.Response]:
    """Send the parts, each in a packet of its own, and read so many answers."""
    reader, writer = await asyncio.open_connection(api.base_url.host, api.base_url.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    found = []
    for _ in range(answers):
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT_SECONDS)).decode()
        status, *lines = head.rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        found.append(httpx.Response(int(status.split()[1]), headers=headers, content=content))
    writer.close()
    return found
