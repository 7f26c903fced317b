"""The agents of a fault run: one that behaves, and several that do not.

Each execution writes a line at its beginning and one at its end to the file that FAULTS_JOURNAL names: a record of what
really ran, independent of the database.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from treadle import Context, agent

JOURNAL_FILE = os.environ.get("FAULTS_JOURNAL")
TEAM_MEMBERS = 3
BLOCK_SECONDS = 7.0  # longer than WORKER_TIMEOUT
FLOOD_BYTES = 50_000_000
FLOOD_EVENT_BYTES = 500_000


class Note(msgspec.Struct):
    """A line of the journal. `what` is begin, then end, or left if the agent was stopped or raised; a killed agent
    writes no second line. `at` is in seconds since the epoch."""

    what: str
    message_id: str
    attempt: int
    pid: int
    at: float


def note(what: str, context: Any) -> None:
    if JOURNAL_FILE:
        line = msgspec.json.encode(Note(what, context.message_id, context.attempt, os.getpid(), time.time())) + b"\n"
        file = os.open(JOURNAL_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(file, line)  # one write: lines of many processes do not mix
        finally:
            os.close(file)


@contextlib.contextmanager
def noted(context: Any) -> Iterator[None]:
    note("begin", context)
    what = "left"
    try:
        yield
        what = "end"
    finally:
        note(what, context)


def answer(key: str, chunks: int) -> str:
    """The answer of a scribe, the same in every attempt."""
    return f"{key} in {chunks} chunks"


def answer_of_team(key: str, chunks: int) -> str:
    return " and ".join(answer(f"{key}/{n}", chunks) for n in range(TEAM_MEMBERS))


@agent("scribe")
async def scribe(context: Context, request: str) -> str:
    """Writes as many chunks as metadata asks, each naming its attempt and place."""
    with noted(context):
        chunks, pause = context.metadata["chunks"], context.metadata["pause"]
        for index in range(chunks):
            await context.emit(f"{request}:{context.attempt}:{index} ")
            await asyncio.sleep(pause)
    return answer(request, chunks)


@agent("team")
async def team(context: Context, request: str) -> str:
    """Has its members write, and waits for them."""
    with noted(context):
        sent = [
            await context.send(f"{request}/{n}", agent="scribe", metadata={**context.metadata, "key": f"{request}/{n}"})
            for n in range(TEAM_MEMBERS)
        ]
        answers = await context.gather(*sent)
    return " and ".join(answers)


@agent("clerk")
async def clerk(context: Context, record: str) -> None:
    """Copies a record to another topic."""
    with noted(context):
        await context.publish("faults.out", record, key=context.metadata["record"].get("key"))
        await asyncio.sleep(0.02)


@agent("filer")
async def filer(context: Context, record: str) -> None:
    with noted(context):
        await asyncio.sleep(0.02)


@agent("exits")
async def exits(context: Context, request: str) -> str:
    """Ends its process."""
    note("begin", context)
    await context.emit("about to")
    os._exit(3)


@agent("leaks")
async def leaks(context: Context, request: str) -> str:
    """Takes memory until the kernel kills its process."""
    note("begin", context)
    hoard = [bytearray(1_000_000) for _ in range(100)]
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
    return str(len(hoard))


@agent("blocks")
async def blocks(context: Context, request: str) -> str:
    """Holds the loop for longer than WORKER_TIMEOUT, as sync code in an async agent does."""
    with noted(context):
        time.sleep(BLOCK_SECONDS)  # noqa: ASYNC251  # blocking is the purpose of this agent
    return answer(request, 0)


@agent("holds")
async def holds(context: Context, request: str) -> str:
    """Holds the GIL for longer than WORKER_TIMEOUT, as a regular expression does that searches for long."""
    with noted(context):
        ctypes.PyDLL(None).usleep(int(BLOCK_SECONDS * 1_000_000))  # unlike CDLL, it does not release the GIL
    return answer(request, 0)


@agent("deaf", timeout=2, max_attempts=1)
async def deaf(context: Context, request: str) -> str:
    """Ignores its cancellation, and goes on emitting."""
    note("begin", context)
    for _ in range(100):
        try:
            await asyncio.sleep(0.1)
            await context.emit("still here ")
        except asyncio.CancelledError:
            continue
    return "never heard"


@agent("floods")
async def floods(context: Context, request: str) -> str:
    """Emits fifty megabytes, or as much as metadata asks."""
    with noted(context):
        event_bytes = context.metadata.get("event_bytes", FLOOD_EVENT_BYTES)
        for index in range(context.metadata.get("bytes", FLOOD_BYTES) // event_bytes):
            await context.event("part", {"index": index, "filler": "x" * event_bytes})
    return answer(request, 0)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("cannot be carried anywhere")
        self.lock = threading.Lock()

    def __reduce__(self) -> str:
        raise TypeError("cannot be pickled")


@agent("raises", max_attempts=2)
async def raises(context: Context, request: str) -> str:
    """Raises what no process can hand to another."""
    with noted(context):
        raise Unpicklable
