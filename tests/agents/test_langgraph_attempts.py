"""A LangGraph graph in several attempts: with a checkpointer it continues where the last one ended."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from service.agents import registry
from service.agents.adapters.langgraph.graph_events import GraphEvents
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection
from service.worker.isolation.parent import Isolation
from tests.support.fixture_types import StartWorker
from tests.support.graphs import Numbers, chain_graph
from tests.support.messages import log, run, settled, submit, types
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from tests.support.worker_processes import lose_lease, submit_lost
from treadle import Agent
from treadle.adapters import langgraph_agent


@pytest.fixture(params=["memory", "postgres"])
async def checkpointer(request: pytest.FixtureRequest, dsn: str) -> Any:
    """A MemorySaver, or a function that opens LangGraph's saver in the test's database."""
    if request.param == "memory":
        return MemorySaver()
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
    return lambda: AsyncPostgresSaver.from_conn_string(dsn)


def three(calls: list[str], die: Callable[[], Any], checkpointer: Any) -> Agent:
    """An agent of three nodes. The last one calls `die` in its first run."""

    async def one(state: Any) -> dict[str, Any]:
        calls.append("one")
        return {"numbers": [1]}

    async def two(state: Any) -> dict[str, Any]:
        calls.append("two")
        return {"numbers": [2]}

    async def last(state: Any) -> dict[str, Any]:
        calls.append("three")
        if calls.count("three") == 1:
            await die()
        return {"numbers": [3]}

    graph = chain_graph(Numbers, one=one, two=two, three=last)
    return langgraph_agent("three", graph, output="numbers", checkpointer=checkpointer)


async def test_a_retry_of_a_change_of_the_state_runs_no_node(
    sql: Connection, start_worker: StartWorker, checkpointer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt is lost after the graph's checkpointer has stored the change."""
    last_values, told = GraphEvents.last_values, []

    async def fail_first(self: GraphEvents, *args: Any, **options: Any) -> None:
        told.append(options)
        if len(told) == 1:
            raise RuntimeError("at first")
        await last_values(self, *args, **options)

    async def die() -> None:
        raise AssertionError("a node runs")

    monkeypatch.setattr(GraphEvents, "last_values", fail_first)
    calls: list[str] = []
    await start_worker(three(calls, die, checkpointer))
    change = {"update": {"values": {"numbers": [7]}, "as_node": "one"}, "graph": True}
    row = await run(sql, {}, agent="three", thread_id="t", metadata={"langgraph": change})
    assert (row["state"], row["attempt"], row["result"], calls) == ("completed", 2, [7], [])
    assert told == [{"following": ["two"]}] * 2


async def test_a_retry_continues_at_the_failed_node(
    sql: Connection, start_worker: StartWorker, checkpointer: Any
) -> None:
    async def die() -> None:
        raise RuntimeError("at first")

    calls: list[str] = []
    await start_worker(three(calls, die, checkpointer))
    row = await run(sql, {"numbers": [0]}, agent="three")
    assert (row["state"], row["attempt"], row["result"]) == ("completed", 2, [0, 1, 2, 3])
    assert calls == ["one", "two", "three", "three"]
    assert await types(sql, row["message_id"]) == [
        *("queued", "started", "node", "node", "retry"),
        *("started", "node", "done"),
    ]


async def test_a_new_attempt_continues_after_a_lost_lease(
    sql: Connection, start_worker: StartWorker, checkpointer: Any
) -> None:
    """As after the death of a worker: the graph receives no signal, and another attempt begins."""
    reached = asyncio.Event()

    async def die() -> None:
        reached.set()
        await asyncio.Event().wait()

    calls: list[str] = []
    await start_worker(three(calls, die, checkpointer))
    message_id = await submit(sql, {"numbers": [0]}, agent="three")
    await wait_for(reached)
    await lose_lease(sql, message_id)
    row = await settled(sql, message_id)
    assert (row["state"], row["result"]) == ("completed", [0, 1, 2, 3])
    assert calls == ["one", "two", "three", "three"]


async def test_a_killed_process_loses_no_finished_node(
    sql: Connection, settings: Settings, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
    monkeypatch.setenv("TEST_CHECKPOINTS", dsn)
    own = msgspec.structs.replace(settings, agents=("tests.support.crashing_graphs",))
    worker = build_worker(own, str(own.database_url), registry.load(own), isolation=Isolation(own))
    task = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.ready or task.done())
        calls = tmp_path / "calls"
        row = await settled(sql, await submit_lost(sql, {"calls": str(calls)}, agent="crashes"))
    finally:
        worker.stop()
        worker.stop()
        await task
    assert (row["state"], row["losses"], row["result"]) == ("completed", 2, ["one", "two", "three"])
    assert calls.read_text().split() == ["one", "two", "three", "three"]


async def test_a_graph_that_has_ended_does_not_run_again(sql: Connection, start_worker: StartWorker) -> None:
    calls: list[str] = []

    async def one(state: Any) -> dict[str, Any]:
        calls.append("one")
        return {"numbers": [1]}

    results: list[Any] = []

    def output(state: Any) -> Any:
        results.append(state["numbers"])
        if len(results) == 1:
            raise RuntimeError("the result is not stored")
        return state["numbers"]

    await start_worker(langgraph_agent("ended", chain_graph(Numbers, one=one).compile(MemorySaver()), output=output))
    row = await run(sql, {"numbers": [0]}, agent="ended")
    assert (row["attempt"], row["result"], calls) == (2, [0, 1], ["one"])


async def test_without_a_checkpointer_a_retry_starts_over(sql: Connection, start_worker: StartWorker) -> None:
    async def die() -> None:
        raise RuntimeError("at first")

    calls: list[str] = []
    await start_worker(three(calls, die, None))
    row = await run(sql, {"numbers": [0]}, agent="three")
    assert (row["result"], calls) == ([0, 1, 2, 3], ["one", "two", "three"] * 2)


async def test_cancelling_and_timeouts_end_the_node(sql: Connection, start_worker: StartWorker) -> None:
    inside, ended = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(state: Any) -> dict[str, Any]:
        try:
            inside.set()
            await asyncio.Event().wait()
        finally:
            ended.release()
        return {}

    await start_worker(langgraph_agent("waits", chain_graph(Numbers, wait=wait), max_attempts=1))
    message_id = await submit(sql, {"numbers": []}, agent="waits")
    await wait_for(inside)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await asyncio.wait_for(ended.acquire(), LIMIT_SECONDS)

    inside.clear()
    while not inside.is_set():  # an attempt may end before its node begins
        row = await run(sql, {"numbers": []}, agent="waits", timeout_seconds=1)
        assert row["error"] == "TimeoutError: the attempt took longer than 1 seconds"
    await asyncio.wait_for(ended.acquire(), LIMIT_SECONDS)


async def test_the_retry_after_of_a_model_is_obeyed(sql: Connection, start_worker: StartWorker) -> None:
    class Response:
        headers = {"retry-after": "1000"}  # noqa: RUF012, a fake of an SDK's

    class RateLimitError(Exception):
        response = Response()

    async def limited(state: Any) -> dict[str, Any]:
        raise RateLimitError("slow down")

    await start_worker(langgraph_agent("limited", chain_graph(Numbers, limited=limited)))
    message_id = await submit(sql, {"numbers": []}, agent="limited")
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    retry = (await log(sql, message_id))[-1]
    assert retry.data["error"] == "RateLimitError: slow down"
    assert (
        abs((msgspec.convert(retry.data["retry_at"], type=type(retry.created_at)) - retry.created_at).seconds - 1000)
        < 2
    )
