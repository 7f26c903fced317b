"""Faults by clients: they read nothing, disconnect at once, or read logs of large events."""

import asyncio
import contextlib
import socket
import time

from faults import watch
from faults.history import Fault, Sent
from faults.world import VICTIM_SECONDS, NothingToBreak, World, fault

STREAM_BYTES = 10_000_000  # more than the kernel buffers for a client that does not read
RECEIVE_BUFFER_BYTES = 4096
IDLE_READERS, LEAVING_READERS = 20, 480
HOLD_SECONDS = 3.0
LOG_READERS, LOG_BYTES, LARGE_EVENT_BYTES = 12, 20_000_000, 900_000


@fault(weight=2)
async def bad_readers(world: World, _: Fault) -> None:
    """20 clients never read a stream of ten megabytes or a page of its log, and 480 connect and disconnect at once."""
    node = world.node()
    sent = await _acknowledged(world, world.clients.send("floods", bytes=STREAM_BYTES))
    with contextlib.ExitStack() as idle:
        for n in range(IDLE_READERS):
            of_message = ("stream", "events?limit=1000")[n % 2]
            idle.enter_context(await _open(node.port, f"/messages/{sent.message_id}/{of_message}"))
        left = 0
        for n in range(LEAVING_READERS):
            with contextlib.suppress(OSError):
                _reader, writer = await asyncio.open_connection("127.0.0.1", node.api_proxy.port)
                path = f"/messages/{sent.message_id}/stream" if n % 2 else "/threads/thread-0/stream"
                writer.write(_request(path))
                await writer.drain()
                writer.transport.abort()
                left += 1
        await asyncio.sleep(HOLD_SECONDS)
    if left < LEAVING_READERS / 2:
        raise NothingToBreak(f"only {left} readers could connect")


@fault(weight=2)
async def large_events(world: World, _: Fault) -> None:
    """12 clients read a log of twenty megabytes, in events of almost one, at the same time."""
    sent = world.clients.send("floods", bytes=LOG_BYTES, event_bytes=LARGE_EVENT_BYTES)
    message_id = (await _acknowledged(world, sent)).message_id
    assert message_id is not None
    readers = [world.clients.start(world.clients.readers.read_message(message_id)) for _ in range(LOG_READERS)]
    await watch.message_ends(world, "a message beside readers of large events", world.clients.send("scribe", chunks=3))
    await asyncio.wait(readers)


async def _acknowledged(world: World, sent: Sent) -> Sent:
    until = time.monotonic() + VICTIM_SECONDS
    while sent.message_id is None:
        if time.monotonic() > until:
            raise NothingToBreak("there was no message to read")
        await asyncio.sleep(0.05)
    return sent


async def _open(port: int, path: str) -> socket.socket:
    """A connection that has asked for a stream and reads nothing. It avoids the proxy, which would read."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, _request(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
