"""Defects that a review found: each once lost data, delayed unrelated messages, or never ended."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import msgspec
import pytest

from service.access.authenticator import OpenAccess
from service.access.principal import AUTH_OFF
from service.agents.builtin.echo import echo
from service.batching import Batcher
from service.config import Settings
from service.db.pool import Connection, Database
from service.errors import Busy
from service.events.feed import Feed
from service.events.sse import Streams
from service.events.store import EventStore
from service.maintenance.chore import Chore
from service.maintenance.janitor import Janitor, _repeat
from service.maintenance.lookout import Lookout
from service.maintenance.store import MaintenanceStore, VacuumHealth
from service.patience import Patience
from service.worker.worker import Worker
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.messages import overview, run, settled, submit, submit_many
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from tests.support.workers import make_worker
from treadle import Context, RetryAfter, agent


async def test_an_answer_whose_events_were_refused_is_a_failure(sql: Connection, start_worker: StartWorker) -> None:
    @agent("odd", max_attempts=1)
    async def odd(context: Context, request: str) -> str:
        await context.event("tool", msgspec.Raw(b'{"n":1e999999}'))  # JSON that PostgreSQL refuses
        await asyncio.sleep(0)
        return "answered"

    await start_worker(odd)
    message = await run(sql, "x", agent="odd")
    assert (message["state"], message["result"]) == ("failed", None)


async def test_an_attempt_that_breaks_is_charged(sql: Connection, start_worker: StartWorker) -> None:
    class Later(RetryAfter):
        def __init__(self) -> None:  # without seconds
            Exception.__init__(self, "later")

    @agent("odd", max_attempts=2)
    async def odd(context: Context, request: str) -> str:
        raise Later

    await start_worker(odd)
    message = await run(sql, "x", agent="odd")
    assert (message["state"], message["attempt"], message["failures"]) == ("failed", 2, 2)


async def test_a_context_in_another_event_loop_harms_no_other_agent(sql: Connection, start_worker: StartWorker) -> None:
    """The call of the second loop must not become the writer of the whole worker's events: it ends with its loop."""

    @agent("elsewhere", max_attempts=1)
    async def elsewhere(context: Context, request: str) -> str:
        calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "emit": lambda: context.emit("x"),
            "event": lambda: context.event("note", 1),
            "step": lambda: context.step("one", lambda: 1),
            "send": lambda: context.send("x", agent="echo"),
            "history": context.history,
        }
        return str(await asyncio.to_thread(asyncio.run, calls[request]()))

    @agent("steps", max_attempts=1)
    async def steps(context: Context, request: str) -> int:
        one, two = await context.step("one", lambda: 1), await context.step("two", lambda: 2)
        return int(one + two)

    await start_worker(elsewhere, steps)
    for call in ("emit", "event", "step", "send", "history"):
        message = await run(sql, call, agent="elsewhere")
        assert message["state"] == "failed"
        assert "the context belongs to the event loop that runs the agent" in message["error"]
    assert (await run(sql, "x", agent="steps"))["result"] == 3


async def test_a_sync_context_in_the_loop_harms_no_other_agent(sql: Connection, start_worker: StartWorker) -> None:
    @agent("mixed", max_attempts=1)
    def mixed(context: Any, request: str) -> None:
        async def tell() -> None:
            context.emit("x")

        context.step("tell", tell)

    await start_worker(mixed, echo)
    message = await run(sql, "x", agent="mixed")
    assert message["state"] == "failed"
    assert "make the agent async" in message["error"]
    assert (await run(sql, "x"))["result"] == "x"


async def test_hung_sync_agents_cost_no_other_message_a_failure(sql: Connection, start_worker: StartWorker) -> None:
    let_go = threading.Event()

    @agent("hung", timeout=0.1, max_attempts=1)
    def hung(context: Any, request: str) -> str:
        let_go.wait(60)
        return "late"

    @agent("quick", timeout=20, max_attempts=1)
    def quick(context: Any, request: str) -> str:
        return "quick"

    worker = await start_worker(hung, quick, worker_concurrency=2)
    hangs = await submit_many(sql, [{"message": "x", "agent": "hung"}] * 1)
    assert (await settled(sql, hangs[0]))["state"] == "failed"
    quicks = await submit_many(sql, [{"message": "x", "agent": "quick"}] * 5)
    for message_id in quicks:
        assert (await settled(sql, message_id))["state"] == "completed"
    assert worker.ready
    let_go.set()


async def test_items_that_wait_for_a_lock_do_not_block_other_busy_items() -> None:
    tried: list[str] = []
    let_go = asyncio.Event()

    async def attempt(items: Any, patient: bool) -> list[Any]:
        tried.extend(items)
        return [
            item if (tried.count(item) > 1 and item == "free") or let_go.is_set() else Busy("held") for item in items
        ]

    batcher: Batcher[str, str] = Batcher(attempt, limit=10, patience=Patience())
    stuck = [asyncio.create_task(batcher.submit(f"stuck {n}")) for n in range(5)]
    assert await asyncio.wait_for(batcher.submit("free"), LIMIT_SECONDS) == "free"
    assert not any(task.done() for task in stuck)
    let_go.set()
    assert await asyncio.gather(*stuck) == [f"stuck {n}" for n in range(5)]


async def test_distant_retries_do_not_delay_the_janitors_rounds(settings: Settings) -> None:
    rounds = 0
    enough = asyncio.Event()

    class Store:
        async def chores_due(self, _: str) -> tuple[set[str], int]:
            return {"admit_due"}, 0

        async def admit_due(self, _: int) -> tuple[int, list[str]]:
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                enough.set()
            return 0, []

        async def chore(self, *_: Any, **__: Any) -> Any:
            return None, 0, []

        async def purge(self, *_: Any, **__: Any) -> Any:
            return None, 0

        async def vacuum_health(self) -> VacuumHealth:
            return VacuumHealth(0, "treadle.messages", None, None)

        async def nothing(self, *_: Any, **__: Any) -> list[Any]:
            return []

        fold_counters = sweep = mend_lanes = tend_partitions = chore
        reap = tend_parents = nothing

    class Arrivals:
        def in_lanes(self, queues: Any) -> None:
            pass

        def in_log(self, message_id: Any, thread: Any) -> None:
            pass

        def in_topics(self, topics: Any) -> None:
            pass

    store: Any = Store()
    janitor = Janitor(worker="w", settings=settings, store=store, arrivals=Arrivals())
    task = asyncio.create_task(janitor.run())

    async def fail() -> bool:
        janitor.admit_in(3600)
        return enough.is_set()

    await until(fail)
    task.cancel()
    assert janitor._admit_due._due == []


async def test_due_messages_are_admitted_despite_locked_threads(
    sql: Connection, database: Database, register_agents: Any, dsn: str
) -> None:
    await register_agents()
    held = [{"message": "x", "thread_id": "held", "delay_seconds": 0.001}] * 30
    await submit_many(sql, held)
    free = await submit(sql, "x", delay_seconds=0.002)
    user = await asyncpg.connect(dsn)
    transaction = user.transaction()
    await transaction.start()
    await user.execute("select from treadle.threads for update")
    store = MaintenanceStore(database)
    await until(lambda: store.admit_due(10), lambda found: found[0] > 0)
    assert (await overview(sql, free))["hold"] is None
    await transaction.rollback()
    await user.close()


async def test_requests_for_a_locked_thread_leave_connections_for_other_requests(
    start_api: StartApi, register_agents: Any, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register_agents()
    monkeypatch.setattr("service.messages.control.store.HELD_SECONDS", 600)
    api = await start_api()
    held = [await api.submit("x", thread_id="held") for _ in range(12)]
    user = await asyncpg.connect(dsn)
    transaction = user.transaction()
    await transaction.start()
    await user.execute("select from treadle.threads for update")
    cancels = [asyncio.create_task(api.delete(f"/messages/{message_id}")) for message_id in held]
    await api.submit("a stranger's")
    assert not any(task.done() for task in cancels)
    monkeypatch.setattr("service.messages.control.store.HELD_SECONDS", 0.1)
    refused = await (await start_api()).delete(f"/messages/{held[0]}")
    assert (refused.status_code, "Retry-After" in refused.headers) == (409, True)
    await transaction.rollback()
    await user.close()
    assert {answer.is_success for answer in await asyncio.gather(*cancels)} == {True}


async def test_a_stream_from_beyond_the_log_ends_too(start_api: StartApi, start_worker: StartWorker) -> None:
    go_on = asyncio.Event()

    @agent("slow")
    async def slow(context: Context, request: str) -> str:
        await go_on.wait()
        return "answered"

    await start_worker(slow)
    client = await start_api()
    message_id = await client.submit("x", agent="slow")
    await client.settled(message_id, "processing")
    reading = asyncio.create_task(client.events(message_id, after=50))
    go_on.set()
    # Without an event if the message was over before the read.
    assert [event.type for event in await reading][-1:] in ([], ["done"])


async def test_a_stream_ends_though_its_log_ended_before_the_cursor(
    sql: Connection, database: Database, start_worker: StartWorker
) -> None:
    await start_worker(echo)
    message = await run(sql, "x")
    streams = Streams(Feed(EventStore(database), poll_interval=60), OpenAccess(), keepalive_interval=60)
    async with asyncio.timeout(LIMIT_SECONDS):
        parts = b"".join([part async for part in streams.message(AUTH_OFF, message["message_id"], 50)])
    assert [line for line in parts.split(b"\n") if line.startswith(b"event: ")] == [b"event: gap", b"event: done"]


async def test_a_background_job_that_fails_stops_its_worker(
    settings: Settings, sql: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would claim on without its janitor, say."""

    async def fail(worker: Worker) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(Worker, "_tick", fail)
    async with asyncio.timeout(LIMIT_SECONDS):
        await make_worker(settings, echo).run()
    [record] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert "a background job of the worker has failed" in record.getMessage()
    assert "unforeseen" in caplog.text


async def test_a_chore_goes_on_after_a_look_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    class FailsOnce(Lookout):
        def __init__(self) -> None:
            self.has_failed = False

        async def wait(self, chore: Chore) -> None:
            if not self.has_failed:
                self.has_failed = True
                raise RuntimeError("unforeseen")

    class Noted:
        name = "noted"

        def __init__(self) -> None:
            self.ran = asyncio.Event()

        async def run(self) -> None:
            self.ran.set()

        async def pause(self) -> None:
            await asyncio.sleep(0)

    chore = Noted()
    repeating = asyncio.create_task(_repeat(chore, FailsOnce()))
    await wait_for(chore.ran)
    repeating.cancel()
    assert "a chore failed" in caplog.text
