"""Run workers where the fixture `start_worker` cannot: without hints, or in a thread with an event loop of its own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec

from service.agents.registry import Registry
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection
from service.worker.worker import Worker
from tests.support.waiting import until
from treadle import Agent


async def worker_ids(sql: Connection) -> list[str]:
    """The ids of the workers that have sent a heartbeat and have not signed off."""
    return [row["worker_id"] for row in await sql.fetch("select worker_id from treadle.workers")]


@contextlib.asynccontextmanager
async def running_worker(sql: Connection, settings: Settings, *agents: Agent, **changes: Any) -> AsyncIterator[Worker]:
    """A worker that is ready without hearing hints. At the end it hands its messages back."""
    own = msgspec.structs.replace(settings, **changes)
    worker = build_worker(own, str(own.database_url), Registry(own, agents))
    task = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker_ids(sql), lambda ids: worker.worker_id in ids or task.done())
        yield worker
    finally:
        worker.stop()
        worker.stop()
        await task


@contextlib.contextmanager
def worker_in_thread(settings: Settings, *agents: Agent, **changes: Any) -> Iterator[Worker]:
    """A worker with an event loop (and a thread) of its own, so that an agent may block it."""
    own = msgspec.structs.replace(settings, **changes)
    made: list[tuple[Worker, asyncio.AbstractEventLoop]] = []
    started = threading.Event()

    async def main() -> None:
        worker = build_worker(own, str(own.database_url), Registry(own, agents))
        made.append((worker, asyncio.get_running_loop()))
        started.set()
        await worker.run()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    started.wait(10)
    worker, loop = made[0]
    try:
        yield worker
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(worker.stop)
            loop.call_soon_threadsafe(worker.stop)
        thread.join(20)
        assert not thread.is_alive()
