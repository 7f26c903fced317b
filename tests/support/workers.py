"""Workers in this process, and runs of them where the fixture `start_worker` cannot: without hints, or in a thread with
an event loop of its own."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest import mock
from uuid import UUID

import msgspec

from service.agents.registry import Registry
from service.cli import wiring
from service.config import Settings
from service.db.pool import Connection
from service.worker.worker import Worker
from tests.support.waiting import LIMIT_SECONDS, until
from treadle import Agent

# Each connection compiles each function that it calls, which costs more than the calls of a test.
CONNECTIONS = 2
# Chores that a message may wait for. The others run seldom, and the first run of each costs as much as a call.
FREQUENT_CHORES = {
    *("lookout", "admit_due", "route", "tend_parents", "tend_all_parents", "reap", "fold_counters", "sweep")
}


def make_worker(settings: Settings, *agents: Agent, all_chores: bool = False) -> Worker:
    """A worker with few connections, whose janitor leaves out rare chores unless `all_chores`."""
    with mock.patch.object(wiring, "WORKER_CONNECTIONS", CONNECTIONS):
        worker = wiring.build_worker(settings, str(settings.database_url), Registry(settings, agents))
    if not all_chores:
        janitor = worker._janitor
        janitor._chores = [chore for chore in janitor._chores if chore.name in FREQUENT_CHORES]
    return worker


async def worker_ids(sql: Connection) -> list[str]:
    """The ids of the workers that have sent a heartbeat and have not signed off."""
    return [row["worker_id"] for row in await sql.fetch("select worker_id from treadle.workers")]


SILENCE = """
    update treadle.workers w
    set heartbeat_at = w.heartbeat_at - case when w.worker_id = $1 then interval '1 hour' else interval '0' end,
        beating_since = w.beating_since - interval '2 hours'"""


async def lose_worker(sql: Connection, worker: str) -> None:
    """Let a worker that sends no heartbeats any more have been silent for an hour, and wait until a janitor has taken
    its messages back. No test waits for WORKER_TIMEOUT: one of seconds would lose living workers of a busy machine."""

    async def is_lost() -> bool:
        await sql.execute(SILENCE, worker)  # again and again: its last heartbeat may come only now
        return worker not in await worker_ids(sql)

    await until(is_lost)


def end_time(worker: Worker, message_id: UUID) -> None:
    """End the time that the message's attempt has: no test waits for a time in which a process must have started."""
    for line in worker._lines._lines:
        if attempt := line.attempts._attempts.get(message_id):
            attempt._execution.ring(attempt._execution._alarm)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running_worker(sql: Connection, settings: Settings, *agents: Agent, **changes: Any) -> AsyncIterator[Worker]:
    """A worker that is ready without hearing hints. At the end it hands its messages back."""
    own = msgspec.structs.replace(settings, **changes)
    worker = make_worker(own, *agents)
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
        worker = make_worker(own, *agents)
        made.append((worker, asyncio.get_running_loop()))
        started.set()
        await worker.run()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(LIMIT_SECONDS)
    worker, loop = made[0]
    try:
        yield worker
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(worker.stop)
            loop.call_soon_threadsafe(worker.stop)
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive()


async def never_replaced(_: str) -> bool:
    """No other worker has an agent that this one lacks."""
    return False
