"""The context: emitting text and events of any amount, history, and information about the message."""

import asyncio
import contextlib
from datetime import datetime
from typing import Any

import asyncpg
import msgspec
import pytest

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from service.leases.store import LeaseStore
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, overview, run, settled, submit, submit_many, text, types
from tests.support.waiting import until, wait_for
from treadle import Context, Rejected, agent

# Emitting


async def test_huge_text_is_split_into_events_of_the_allowed_size(sql: Connection, start_worker: StartWorker) -> None:
    huge = "".join(("plain ", "ünïcödé ", "😀😀 ", '\x01\x1f"\\\n '))[:25] * 200

    @agent("huge")
    async def huge_agent(context: Context, request: str) -> None:
        await context.emit(huge)
        await context.emit("")
        await context.emit("end")

    await start_worker(huge_agent, max_event_bytes=1000)
    message = await run(sql, "x", agent="huge")
    sizes = [
        len(msgspec.json.encode(entry.data)) for entry in await log(sql, message["message_id"]) if entry.type == "chunk"
    ]
    assert len(sizes) > 10
    assert max(sizes) <= 1000
    assert await text(sql, message["message_id"]) == huge + "end"


async def test_events_of_agents_have_a_size_limit_and_no_reserved_type(
    sql: Connection, start_worker: StartWorker
) -> None:
    refused: dict[str, str] = {}

    @agent("naughty")
    async def naughty(context: Context, request: str) -> None:
        tries: list[tuple[str, Any]] = [
            ("big", "x" * 1000),
            ("wide", "😀" * 300),  # few characters, many bytes
            ("", 1),
            ("two\nlines", 1),
            ("x" * 101, 1),
            *(
                (name, {})
                for name in ("queued", "waiting", "started", "retry", "done", "error", "cancelled", "gap", "chunk")
            ),
        ]
        for name, data in tries:
            try:
                await context.event(name, data)
            except ValueError as error:
                refused[name] = str(error)
        await context.event("fits", "x" * 900)
        with contextlib.suppress(TypeError):
            await context.emit(b"bytes")  # type: ignore[arg-type]
        with contextlib.suppress(TypeError):
            await context.event("odd", object())

    await start_worker(naughty, max_event_bytes=1000)
    message = await run(sql, "x", agent="naughty")
    assert message["error"] is None
    assert len(refused) == 14
    assert "at most 1000 bytes (MAX_EVENT_BYTES)" in refused["big"]
    assert await types(sql, message["message_id"]) == ["queued", "started", "fits", "done"]


async def test_an_agent_that_emits_faster_than_postgres_takes_it_waits(
    sql: Connection, dsn: str, start_worker: StartWorker
) -> None:
    ready, go = asyncio.Event(), asyncio.Event()
    emitted = 0

    @agent("flood")
    async def flood(context: Context, request: str) -> None:
        nonlocal emitted
        ready.set()
        await go.wait()
        for number in range(4000):
            await context.emit(f"{number:04}" + "x" * 996)
            emitted += 1

    await start_worker(flood)
    message_id = await submit(sql, "x", agent="flood")
    await wait_for(ready)
    blocker = await asyncpg.connect(dsn)
    try:
        async with blocker.transaction():
            await blocker.execute("lock table treadle.events in exclusive mode")
            go.set()
            await until(lambda: emitted)
            assert emitted < 1100  # it did not yield to the loop before it had to wait
    finally:
        await blocker.close()
    assert (await settled(sql, message_id))["state"] == "completed"
    streamed = await text(sql, message_id)
    assert [streamed[start : start + 4] for start in range(0, len(streamed), 1000)] == [f"{n:04}" for n in range(4000)]


async def test_many_megabytes_at_once_go_to_postgresql_in_several_appends(
    sql: Connection, start_worker: StartWorker, register_agents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    finish = LeaseStore.finish

    async def measured(store: LeaseStore, batch: Any, *rest: Any) -> Any:
        sizes.append(
            sum(len(item.outcome.result or "") + sum(len(event.data) for event in item.events) for item in batch)
        )
        return await finish(store, batch, *rest)

    @agent("large")
    async def large(context: Context, request: str) -> str:
        await context.emit("x" * 900_000)
        return "y" * 1_000_000

    monkeypatch.setattr(LeaseStore, "finish", measured)
    await register_agents(large)
    ids = await submit_many(sql, [{"message": str(number), "agent": "large"} for number in range(20)])
    await start_worker(large)
    for message_id in ids:
        assert (await settled(sql, message_id))["attempt"] == 1
    assert sum(sizes) > 20_000_000
    assert max(sizes) <= 8_000_000


# Information


async def test_history_has_the_completed_earlier_messages_of_the_thread(
    sql: Connection, start_worker: StartWorker
) -> None:
    histories: dict[str, list[tuple[Any, Any]]] = {}

    @agent("remember")
    async def remember(context: Context, request: str) -> str:
        if request == "bad":
            raise Rejected("No.")
        histories[request] = [(exchange.message, exchange.result) for exchange in await context.history()]
        histories[f"{request}, last 2"] = [(exchange.message, exchange.result) for exchange in await context.history(2)]
        return f"re: {request}"

    await start_worker(remember, echo)
    await run(sql, "elsewhere", agent="remember", thread_id="other")
    await run(sql, "alone", agent="remember")
    for request in ("one", "bad", "two", "three"):
        await run(sql, request, agent="remember", thread_id="t")
    later = await submit(sql, "never", agent="remember", thread_id="t", delay_seconds=1000)
    await run(sql, "four", agent="remember", thread_id="t")
    assert histories["alone"] == histories["one"] == histories["elsewhere"] == []
    assert histories["three"] == [("one", "re: one"), ("two", "re: two")]
    assert histories["four"] == [("one", "re: one"), ("two", "re: two"), ("three", "re: three")]
    assert histories["four, last 2"] == [("two", "re: two"), ("three", "re: three")]
    assert (await overview(sql, later))["state"] == "queued"


async def test_a_context_has_the_ids_attempt_metadata_and_deadline(sql: Connection, start_worker: StartWorker) -> None:
    @agent("curious", timeout=30)
    async def curious(context: Context, request: str) -> Any:
        left = context.deadline - datetime.now(context.deadline.tzinfo)
        return {
            "message_id": context.message_id,
            "thread_id": context.thread_id,
            "attempt": context.attempt,
            "metadata": context.metadata,
            "left": left.total_seconds(),
            "cancelled": context.cancelled,
        }

    await start_worker(curious)
    message = await run(sql, "x", agent="curious", thread_id="t", metadata={"a": [1]})
    left = message["result"].pop("left")
    assert 0 < left <= 30
    assert message["result"] == {
        "message_id": str(message["message_id"]),
        "thread_id": "t",
        "attempt": 1,
        "metadata": {"a": [1]},
        "cancelled": False,
    }
