"""Gates between processes: an agent waits in its process until a test opens the gate. A closed gate is a named pipe, an
open one a file."""

import asyncio
import contextlib
import os
import stat
from pathlib import Path


async def until_open(gate: str) -> None:
    """Wait at a gate, which need not be there yet."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(gate)
    pipe = os.open(gate, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(pipe).st_mode):
            is_open = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe, is_open.set)
            try:
                await is_open.wait()
            finally:
                asyncio.get_running_loop().remove_reader(pipe)
    finally:
        os.close(pipe)


def open_gate(gate: Path) -> None:
    """Let all through who wait at the gate, and who come later."""
    with contextlib.suppress(FileExistsError):
        os.mkfifo(gate)
    pipe = os.open(gate, os.O_RDWR)
    opened = gate.with_name(f"{gate.name} is open")
    opened.touch()
    opened.replace(gate)  # who comes from now on finds a file
    os.write(pipe, b"x")  # it stays unread, so that the others find it however late they look
    os.close(pipe)
