"""After its first loss a message runs in a process of its own: nothing changes for its agent, and the death of the
process affects no other message."""

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from service.agents import registry
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection
from service.leases.model import EventToAppend
from service.worker.event_buffer import HIGH_WATER_CHARS, EventBuffer
from service.worker.isolation.parent import Isolation
from service.worker.worker import Worker
from tests.support.invariants import assert_consistent
from tests.support.messages import dead_letter, log, overview, settled, submit, text, types
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.worker_processes import agent_process, emitted_text, processes_ended, submit_lost
from tests.support.workers import end_time

Start = Callable[..., Awaitable[Worker]]

LOST_ONCE = ["queued", "started", "retry", "started"]


@pytest.fixture
async def start(settings: Settings) -> AsyncIterator[Start]:
    """Start a worker that isolates, with the agents of `apart`; settings by name change it."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**changes: Any) -> Worker:
            own = msgspec.structs.replace(settings, agents=("tests.support.isolated_agents",), **changes)
            worker = build_worker(own, str(own.database_url), registry.load(own), isolation=Isolation(own))
            task = asyncio.create_task(worker.run())

            async def stop() -> None:
                worker.stop()
                worker.stop()
                await task

            stack.push_async_callback(stop)
            await until(lambda: worker.ready or task.done())
            return worker

        yield start


async def run(sql: Connection, message: Any, **fields: Any) -> dict[str, Any]:
    return await settled(sql, await submit_lost(sql, message, **fields))


# Nothing changes for the agent


@pytest.mark.parametrize("name", ["everything", "everything sync"])
async def test_an_agent_can_do_in_its_process_what_it_can_do_in_the_worker(
    name: str, sql: Connection, start: Start
) -> None:
    await start()
    found = []
    for losses in (0, 1):
        thread = f"thread {losses}"
        place = {"agent": name, "thread_id": thread, "metadata": {"a": [1], "big": 10**30}}
        first = await settled(sql, await submit_lost(sql, "first", losses=losses, **place))
        message_id = await submit_lost(sql, "word", losses=losses, **place)
        message = await settled(sql, message_id)
        result = message["result"]
        assert result.get("stored", {"a": 1}) == {"a": 1}
        assert result["exchanges"] == [["first", first["result"]]]
        assert (result["process"] == os.getpid()) is (losses == 0)
        assert (result["message_id"], result["thread_id"]) == (str(message_id), thread)
        assert (result["attempt"], result["cancelled"]) == (losses + 1, False)
        entries = await log(sql, message_id)
        started = [entry.created_at.timestamp() for entry in entries if entry.type == "started"]
        assert 0 < result["deadline"] - started[-1] < 60
        written = [(entry.type, entry.data) for entry in entries if entry.type in {"chunk", "progress"}]
        found.append((written, message["usage"], result["metadata"], message["state"], message["losses"] - losses))
    assert found[0] == found[1]
    assert len(found[0][0]) == 22
    assert found[0][1] == {"tokens": 8, "cents": 0.5, "model": "m"}
    assert (await text(sql, message_id)).endswith("word19 \ufffdend")


async def test_structs_go_in_and_out(sql: Connection, start: Start) -> None:
    await start()
    message = await run(sql, {"customer": "Ada", "cents": [1, 2]}, agent="total")
    assert message["result"] == {"customer": "Ada", "total": 3}
    message = await run(sql, {"customer": "Ada"}, agent="total")
    assert (message["state"], message["losses"]) == ("failed", 1)
    assert "does not fit" in message["error"]


@pytest.mark.parametrize(
    ("how", "state", "error"),
    [
        ("retry", "queued", "Later."),
        ("reject", "failed", "No."),
        ("unpicklable", "failed", "Unpicklable: odd"),
        ("exit", "failed", "SystemExit: 4"),
        ("cancel", "failed", "The agent cancelled itself."),
        ("interrupt", "failed", "KeyboardInterrupt"),
        ("no json", "failed", "The agent's result is not JSON: Encoding objects of type object is unsupported."),
    ],
)
async def test_exceptions_mean_the_same_in_a_process(
    how: str, state: str, error: str, sql: Connection, start: Start
) -> None:
    await start()
    for losses in (0, 1):
        attempts = 2 if how == "retry" else 1
        message_id = await submit_lost(sql, how, losses=losses, agent="fails", max_attempts=attempts)
        await until(functools.partial(overview, sql, message_id), lambda row: row["failures"] == 1)
        message = await overview(sql, message_id)
        assert (message["state"], message["error"], message["losses"]) == (state, error, losses)
        begun = LOST_ONCE if losses else ["queued", "started"]
        assert await types(sql, message_id) == [*begun, "chunk", "retry" if state == "queued" else "error"]
        if state == "failed":
            assert "in fails\n" in (await dead_letter(sql, message_id))["traceback"] or how == "no json"


async def test_an_agent_that_emits_faster_than_postgres_takes_it_waits(
    sql: Connection, dsn: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [0]
    put = EventBuffer.put

    async def measured(events: EventBuffer, event: EventToAppend) -> None:
        sizes.append(events._unsent_chars)
        await put(events, event)

    monkeypatch.setattr(EventBuffer, "put", measured)
    await start()
    blocker = await asyncpg.connect(dsn)
    try:
        message_id = await submit_lost(sql, "x", agent="flood")
        await settled(sql, message_id, "processing")
        async with blocker.transaction():
            await blocker.execute("lock table treadle.events in exclusive mode")
            await until(lambda: max(sizes), lambda size: size > HIGH_WATER_CHARS - 2000)
    finally:
        await blocker.close()
    assert (await settled(sql, message_id))["state"] == "completed"
    assert max(sizes) <= HIGH_WATER_CHARS + 2000
    streamed = await text(sql, message_id)
    assert [streamed[start : start + 4] for start in range(0, len(streamed), 1000)] == [f"{n:04}" for n in range(4000)]


# The process dies


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("exit", "The agent's process ended with exit code 3."),
        ("SIGKILL", "The agent's process was killed by signal 9 (SIGKILL)."),
        ("SIGSEGV", "The agent's process was killed by signal 11 (SIGSEGV)."),
        ("leaves one behind", "The agent's process ended with exit code 0."),
    ],
)
async def test_a_process_that_dies_is_a_loss_of_its_message(
    how: str, error: str, sql: Connection, start: Start
) -> None:
    await start()
    message_id = await submit_lost(sql, how, agent="dies", thread_id="t", max_attempts=1)
    behind = await submit(sql, "after it", agent="echo", thread_id="t")
    message = await settled(sql, message_id)
    assert (message["state"], message["error"]) == ("failed", error)
    assert (message["attempt"], message["failures"], message["losses"]) == (3, 0, 3)
    assert message["usage"] == {"tokens": 2}  # of two attempts in processes
    assert await types(sql, message_id) == [*LOST_ONCE, *("chunk", "retry"), *("started", "chunk", "error")]
    retry = (await log(sql, message_id))[5].data
    assert (retry["attempt"], retry["error"]) == (2, error)
    letter = await dead_letter(sql, message_id)
    assert (letter["reason"], letter["attempts"]) == (error, 3)
    assert (await settled(sql, behind))["result"] == "after it"


@pytest.mark.skipif(
    not Path("/proc/self/oom_score_adj").exists(), reason="only Linux shows which process it would kill first"
)
async def test_if_memory_runs_out_the_kernel_kills_a_child_first(sql: Connection, start: Start) -> None:
    await start()
    message_id = await submit_lost(sql, "listens", agent="stays")
    child, forkserver = map(int, (await emitted_text(sql, message_id)).split())
    assert (_score(child), _score(forkserver)) == (1000, _score(os.getpid()))


def _score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_children_die_with_their_fork_server_and_the_next_one_works(sql: Connection, start: Start) -> None:
    await start()
    message_id = await submit_lost(sql, "blocks", agent="stays", max_attempts=1)
    listening = await submit_lost(sql, "listens", agent="stays", max_attempts=1)
    child, forkserver = map(int, (await emitted_text(sql, listening)).split())
    blocked = await agent_process(sql, message_id)
    os.kill(forkserver, signal.SIGKILL)
    await processes_ended(child, forkserver, *([blocked] if sys.platform == "linux" else []))
    for lost in (message_id, listening):
        await until(functools.partial(overview, sql, lost), lambda row: row["losses"] == 2)
        retries = [entry.data for entry in await log(sql, lost) if entry.type == "retry"]  # a third may follow at once
        assert retries[1]["error"] == "The agent's process was lost."
        await sql.fetchval("select treadle.cancel($1)", lost)
    assert (await run(sql, "next", agent="echo"))["result"] == "next"


async def test_a_message_that_gets_no_process_is_deferred_without_a_failure(
    sql: Connection, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.worker.isolation.parent.FORKSERVER_SOURCE", "raise SystemExit(9)")
    await start()
    message_id = await submit_lost(sql, "x", agent="echo", max_attempts=1)
    message = await until(lambda: overview(sql, message_id), lambda row: row["state"] == "queued" and row["hold"])
    assert (message["failures"], message["losses"]) == (0, 1)
    assert message["error"] == "No process can be started for the agent: the fork server ended with exit code 9."
    monkeypatch.undo()
    assert (await settled(sql, message_id))["result"] == "x"


async def test_what_a_process_sends_is_checked(sql: Connection, start: Start) -> None:
    await start()
    row = await run(sql, {"number": 1}, agent="sends an order")
    assert (row["state"], row["result"]) == ("completed", 2)
    row = await run(sql, {"number": "one"}, agent="sends an order")
    assert row["state"] == "failed"
    assert "message.number does not fit the input of the agent 'orders'" in row["error"]


# Cancelled or timed out


STUBBORN = [
    *(("stays", how) for how in ("swallows", "blocks", "computes", "babbles")),
    ("stays sync", "blocks"),
]


@pytest.mark.parametrize(("name", "how"), STUBBORN)
async def test_cancel_kills_a_process_that_ignores_it(name: str, how: str, sql: Connection, start: Start) -> None:
    await start()
    message_id = await submit_lost(sql, how, agent=name)
    child = await agent_process(sql, message_id)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    message = await settled(sql, message_id)
    assert (message["state"], message["failures"], message["losses"]) == ("cancelled", 0, 1)
    await processes_ended(child)


@pytest.mark.parametrize(("name", "how"), STUBBORN)
async def test_a_timeout_kills_a_process_that_ignores_it(name: str, how: str, sql: Connection, start: Start) -> None:
    worker = await start()
    message_id = await submit_lost(sql, how, agent=name, timeout_seconds=1000, max_attempts=1)
    child = await agent_process(sql, message_id)
    end_time(worker, message_id)
    message = await settled(sql, message_id)
    assert (message["state"], message["failures"], message["losses"]) == ("failed", 1, 1)
    assert message["error"] == "TimeoutError: the attempt took longer than 1000 seconds"
    await processes_ended(child)


@pytest.fixture
def time_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second is short for a process on a busy machine."""
    for name in ("execution.CANCEL_GRACE_SECONDS", "worker.RELEASE_SECONDS"):
        monkeypatch.setattr(f"service.worker.{name}", LIMIT_SECONDS)


@pytest.mark.parametrize("name", ["stays", "stays sync"])
async def test_a_cancelled_agent_can_clean_up(name: str, sql: Connection, start: Start, time_to_clean_up: None) -> None:
    await start()
    message_id = await submit_lost(sql, "listens", agent=name)
    child = await agent_process(sql, message_id)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    assert (await text(sql, message_id)).endswith(" goodbye" if name == "stays sync" else " cancelled goodbye")
    await processes_ended(child)


async def test_an_agent_of_a_stopped_worker_can_clean_up(sql: Connection, start: Start, time_to_clean_up: None) -> None:
    worker = await start()
    message_id = await submit_lost(sql, "listens", agent="stays", max_attempts=1)
    await agent_process(sql, message_id)
    worker.stop()
    worker.stop()
    assert (await settled(sql, message_id, "queued"))["attempt"] == 2
    assert (await text(sql, message_id)).endswith(" released goodbye")


# Waiting, and run_in="process"


@pytest.mark.parametrize("losses", [0, 1])
@pytest.mark.parametrize("name", ["parent", "parent sync"])
async def test_an_agent_in_a_process_is_parked_like_one_in_the_worker(
    name: str, losses: int, sql: Connection, start: Start
) -> None:
    await start()
    message_id = await submit_lost(sql, "a b", losses=losses, agent=name, thread_id="t")
    parked = await until(lambda: overview(sql, message_id), lambda row: row["hold"] == "input")
    assert parked["losses"] == losses
    await sql.fetchval("select treadle.input($1, '42')", message_id)
    row = await settled(sql, message_id)
    assert (row["state"], row["losses"]) == ("completed", losses)
    assert (row["result"]["doubled"], row["result"]["instance"]) == (["aa", "bb"], 7)
    assert (row["result"]["process"] == os.getpid()) == (losses == 0)
    assert await sql.fetchval("select memory from treadle.threads") == {"answer": 42}
    assert await sql.fetchval("select count(*) from treadle.messages") == 3
    await assert_consistent(sql)


async def test_an_agent_with_run_in_process_gets_a_process(sql: Connection, start: Start) -> None:
    await start()
    row = await settled(sql, await submit(sql, "x", agent="crunches"))
    assert row["state"] == "completed"
    assert row["result"]["process"] not in {os.getpid(), row["result"]["worker"]}


async def test_an_endless_computation_is_killed_with_its_process(sql: Connection, start: Start) -> None:
    await start()
    message_id = await submit(sql, "endless", agent="crunches")
    await until(lambda: types(sql, message_id), lambda found: "begun" in found)
    process = (await log(sql, message_id))[2].data
    assert await sql.fetchval("select treadle.cancel($1)", message_id) == "requested"
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await until(lambda: Path(f"/proc/{process}").exists(), lambda there: not there)


async def test_an_agent_that_exceeds_its_memory_limit_fails_alone(sql: Connection, start: Start) -> None:
    """Under a real limit: once with a MemoryError, once with the death of its process."""
    await start(max_losses=2, retry_base_seconds=0.01)
    neighbour = await submit(sql, "stays", agent="child", delay_seconds=1)
    refused = await settled(sql, await submit(sql, "raise", agent="hoards"))
    assert (refused["state"], refused["failures"], refused["losses"]) == ("failed", 1, 0)
    assert "MemoryError" in refused["error"]
    died = await settled(sql, await submit(sql, "die", agent="hoards"))
    assert (died["state"], died["failures"], died["losses"]) == ("failed", 0, 2)
    assert died["error"] == "The agent's process was killed by signal 6 (SIGABRT)."
    assert (await settled(sql, neighbour))["losses"] == 0
