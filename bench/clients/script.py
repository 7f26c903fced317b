"""The protocol between a client process and the benchmark: one line of JSON in, `ready`, `go`, one line of JSON out."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
import uvloop

Go: TypeAlias = Callable[[], Awaitable[None]]


def play(client: Callable[[Any, Go], Awaitable[Any]]) -> None:
    """Run `client(config, go)`; it awaits `go()` once, when it is ready to be measured."""
    config = msgspec.json.decode(sys.stdin.buffer.readline())
    answer = uvloop.run(_guarded(client, config))
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()  # stay alive until stopped: the benchmark still reads the CPU time


async def _guarded(client: Callable[[Any, Go], Awaitable[Any]], config: Any) -> Any:
    return await client(config, _go)


async def _go() -> None:
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    if not await asyncio.to_thread(sys.stdin.buffer.readline):
        os._exit(1)  # the benchmark has ended
