"""What tests of workers share: to submit and to look as a person with psql does, and to run workers where the fixtures
cannot."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from conftest import until

from service.agents.contract import Agent
from service.agents.registry import Registry
from service.config import Settings
from service.db.pool import Connection
from service.worker.loop import Worker

OVER = ("completed", "failed", "cancelled")


class Entry(msgspec.Struct, frozen=True):
    """An event of a log."""

    type: str
    data: Any
    created_at: datetime


async def submit(sql: Connection, message: Any, **fields: Any) -> UUID:
    """Submit one message; fields as treadle.submit_many takes them."""
    return (await submit_many(sql, [{"message": message, **fields}]))[0]


async def submit_many(sql: Connection, messages: list[dict[str, Any]]) -> list[UUID]:
    rows = await sql.fetch(
        "select message_id from treadle.submit_many($1::jsonb, notify => true)", msgspec.json.encode(messages).decode()
    )
    return [row["message_id"] for row in rows]


async def look(sql: Connection, message_id: UUID) -> dict[str, Any]:
    """The message as treadle.message_overview shows it."""
    return dict(await sql.fetchrow("select * from treadle.message_overview where message_id = $1", message_id) or {})


async def settled(sql: Connection, message_id: UUID, *states: str, seconds: float = 20.0) -> dict[str, Any]:
    """Wait until the message is in one of these states (by default: over)."""
    wanted = states or OVER
    return dict(await until(lambda: look(sql, message_id), lambda row: row.get("state") in wanted, seconds))


async def run(sql: Connection, message: Any, **fields: Any) -> dict[str, Any]:
    """Submit a message and wait until it is over."""
    return await settled(sql, await submit(sql, message, **fields))


async def log(sql: Connection, message_id: UUID) -> list[Entry]:
    """The message's log as a reader is given it; it must be dense from 1."""
    rows = await sql.fetch("select * from treadle.read_events(array[$1::uuid], array[0], 100000)", message_id)
    while rows and len(rows) < await sql.fetchval(
        "select count(*) from treadle.events where message_id = $1", message_id
    ):
        more = await sql.fetch(
            "select * from treadle.read_events(array[$1::uuid], array[$2::integer], 100000)",
            message_id,
            rows[-1]["seq"],
        )
        assert more
        rows += more
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    return [Entry(row["type"], msgspec.json.decode(row["data"] or "null"), row["created_at"]) for row in rows]


async def types(sql: Connection, message_id: UUID) -> list[str]:
    """The types of a message's events, in order."""
    return [entry.type for entry in await log(sql, message_id)]


async def text(sql: Connection, message_id: UUID) -> str:
    """What the last attempt streamed; its chunks must be numbered from 0."""
    chunks: list[Any] = []
    for entry in await log(sql, message_id):
        if entry.type == "retry":
            chunks = []
        elif entry.type == "chunk":
            chunks.append(entry.data)
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    return "".join(chunk["chunk"] for chunk in chunks)


async def happens(event: asyncio.Event | threading.Event) -> None:
    """Wait for an event that must come."""

    async def is_set() -> bool:
        return event.is_set()

    await until(is_set)


async def workers(sql: Connection) -> list[str]:
    """The ids of the workers that have beaten and not signed off."""
    return [row["worker_id"] for row in await sql.fetch("select worker_id from treadle.workers")]


def closed_port(dsn: str) -> str:
    """The same address at a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    user_and_host, _, database = dsn.rpartition("/")
    return f"{user_and_host.rpartition(':')[0]}:{port}/{database}"


@contextlib.asynccontextmanager
async def working(sql: Connection, settings: Settings, *agents: Agent, **changes: Any) -> AsyncIterator[Worker]:
    """A worker that need not hear hints to be ready. It hands back what it has at the end."""
    own = msgspec.structs.replace(settings, **changes)
    worker = Worker(own, str(own.database_url), Registry(own, agents))
    task = asyncio.create_task(worker.run())
    try:
        await until(lambda: workers(sql), lambda ids: worker.worker_id in ids or task.done())
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await task


@contextlib.contextmanager
def working_apart(settings: Settings, *agents: Agent, **changes: Any) -> Iterator[Worker]:
    """A worker with an event loop (and a thread) of its own, so that an agent may block it."""
    own = msgspec.structs.replace(settings, **changes)
    box: list[tuple[Worker, asyncio.AbstractEventLoop]] = []
    made = threading.Event()

    async def main() -> None:
        worker = Worker(own, str(own.database_url), Registry(own, agents))
        box.append((worker, asyncio.get_running_loop()))
        made.set()
        await worker.run()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    made.wait(10)
    worker, loop = box[0]
    try:
        yield worker
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(worker.stop)
            loop.call_soon_threadsafe(worker.stop)
        thread.join(20)
        assert not thread.is_alive()
