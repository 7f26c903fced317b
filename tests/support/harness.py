"""What tests of workers and of the API share: to submit and to look as a person with psql does, to run workers where
the fixtures cannot, agents that wait, and how the API's answers must look."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import msgspec

from service.agents.contract import Agent, Context, Rejected, agent
from service.agents.registry import Registry
from service.config import Settings
from service.db.pool import Connection
from service.worker.worker import Worker
from tests.conftest import Client, until

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
        if entry.type == "started":
            chunks = []
        elif entry.type == "chunk":
            chunks.append(entry.data)
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    return "".join(chunk["chunk"] for chunk in chunks)


async def dead_letter(sql: Connection, message_id: Any) -> Any:
    return await sql.fetchrow("select * from treadle.dead_letters where message_id = $1", message_id)


async def wait_for(event: asyncio.Event | threading.Event) -> None:
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


# Agents that wait or refuse


def gate() -> tuple[Agent, list[str], asyncio.Event]:
    """An agent that waits: with whom it waits, and the event that lets all of them end."""
    waiting: list[str] = []
    release = asyncio.Event()

    @agent("gate")
    async def wait(context: Context, request: str) -> str:
        waiting.append(request)
        await release.wait()
        return request

    return wait, waiting, release


class Hall:
    """An agent whose messages stay in it until the doors open; `interrupted` counts those that were thrown out."""

    def __init__(self, queue: str = "default") -> None:
        self.inside: set[str] = set()
        self.interrupted: set[str] = set()
        self.doors = asyncio.Event()

        @agent("hall", queue=queue, max_attempts=1)
        async def hall(context: Context, text: str) -> str:
            """Holds messages."""
            self.inside.add(context.message_id)
            try:
                await self.doors.wait()
            except asyncio.CancelledError:
                self.interrupted.add(context.message_id)
                raise
            return text

        self.agent = hall

    async def holds(self, *ids: str) -> None:
        async def inside() -> set[str]:
            return self.inside

        await until(inside, lambda found: found >= set(ids))


@agent("reject")
async def reject(_: Context, text: str) -> str:
    """Rejects everything."""
    raise Rejected(f"No {text}.")


# The API's answers

OVERVIEW = {
    *("total_queued", "total_processing", "total_completed", "total_failed", "total_cancelled"),
    *("queued_messages", "current_processing", "processing"),
}
QUEUE = {
    *("name", "paused", "depth", "visible", "in_flight", "completed", "failed", "cancelled", "oldest_age_seconds"),
    *("throughput_per_minute", "mean_processing_seconds", "created_at"),
}
TABLES = ("messages", "threads", "events", "thread_log", "idempotency", "counters")
NOBODY = "01890000-0000-7000-8000-000000000000"


async def get(api: Client, path: str, **params: Any) -> Any:
    answer = await api.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def totals(overview: dict[str, Any]) -> list[int]:
    return [overview[f"total_{state}"] for state in ("queued", "processing", "completed", "failed", "cancelled")]


async def positions(api: Client, *ids: str) -> list[int | None]:
    return [(await api.status(message_id))["queue_position"] for message_id in ids]


def moment(text: str) -> datetime:
    """A time as the API writes it: with its zone."""
    parsed = datetime.fromisoformat(text)
    assert parsed.tzinfo is not None
    return parsed


def problem(answer: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    """Check that this is a problem as RFC 9457 has it, in a sentence for a person that has these words."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found.keys() == {"type", "title", "status", "detail"}
    assert (found["type"], found["status"]) == ("about:blank", status)
    assert found["title"]
    detail = found["detail"]
    assert detail.endswith(".")
    assert 10 < len(detail) < 250, detail
    assert not any(cryptic in detail for cryptic in ("`", "$", "\n", "Traceback", "msgspec", "regex", "got ")), detail
    for word in words:
        assert word in detail
    return dict(found)


async def written(sql: Connection) -> dict[str, int]:
    """Rows in every table that a submit writes to, lanes included."""
    tables = [f"treadle.{table}" for table in TABLES]
    tables += [row[0] for row in await sql.fetch("select 'pgmq.q_' || queue_name from pgmq.list_queues() order by 1")]
    return {table: await sql.fetchval(f"select count(*) from {table}") for table in tables}


@contextlib.contextmanager
def case(name: str) -> Iterator[None]:
    """Names the case in what fails here."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the case: {name}")
        raise
