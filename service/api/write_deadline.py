"""Closes connections whose client does not read what was sent to it: each would keep its answer in memory for ever."""

import asyncio
import socket

CHECK_SECONDS = 15.0
SEND_BUFFER_BYTES = 128 * 1024  # that the kernel keeps for a slow reader, beyond uvicorn's own 64 KiB


class WriteDeadline:
    """For one connection. `start` and `stop` are called when the bytes that wait for the client exceed uvicorn's limit,
    and when they fall below it. In between, the client must read some of them in each CHECK_SECONDS: the kernel takes
    more as soon as a third of its buffer is free."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_bytes = 0
        limit_send_buffer(transport)

    def start(self) -> None:
        self.stop()
        self._waiting_bytes = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(CHECK_SECONDS, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        if self._transport.get_write_buffer_size() < self._waiting_bytes:
            self.start()
        else:
            self._transport.abort()


def limit_send_buffer(transport: asyncio.BaseTransport) -> None:
    """Without it, the kernel keeps some megabytes for each client that does not read."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
