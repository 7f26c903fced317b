"""The answers that a LangGraph graph received, in later attempts: no question is asked twice."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from service.agents import registry
from service.cli.wiring import build_worker
from service.config import Settings
from service.db.pool import Connection
from service.worker.isolation.parent import Isolation
from tests.support.fixture_types import StartWorker
from tests.support.graphs import (
    Checkpoints,
    Nodes,
    Numbers,
    chain_graph,
    failing_checkpoints,
    graph_agent,
    stored_checkpoints,
)
from tests.support.inputs import asked_input, give_input
from tests.support.messages import run, settled, submit, types
from tests.support.waiting import until, wait_for
from tests.support.worker_processes import lose_lease, submit_lost


@pytest.fixture
async def checkpoints(dsn: str) -> Checkpoints:
    return await stored_checkpoints(dsn)


@pytest.mark.parametrize("inside", [False, True], ids=["plain", "inner"])
async def test_a_node_that_fails_after_an_answer_is_not_asked_again(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints, inside: bool
) -> None:
    """Nor is a node that fails before it uses the answer."""
    nodes = Nodes()

    async def ask(state: Numbers) -> dict[str, Any]:
        nodes.calls.append("ask")
        if nodes.calls.count("ask") == 2:
            raise RuntimeError("before")
        found = [interrupt("one?")]
        if nodes.calls.count("ask") == 3:
            raise RuntimeError("after")
        return {"numbers": [*found, interrupt("two?")]}

    graph: Any = chain_graph(Numbers, one=nodes.plain("one"), ask=ask)
    await start_worker(graph_agent(chain_graph(Numbers, inner=graph.compile()) if inside else graph, checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks", max_attempts=9)
    assert (await asked_input(sql, message_id))["question"] == "one?"
    await give_input(sql, message_id, 10)
    assert (await asked_input(sql, message_id, 2))["question"] == "two?"
    assert (await types(sql, message_id)).count("retry") == 2
    await give_input(sql, message_id, 20)
    row = await settled(sql, message_id)
    assert (row["state"], row["result"]) == ("completed", [0, 10, 20])
    assert nodes.calls.count("one") == 1


async def test_a_failing_node_does_not_repeat_the_questions_of_others(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    failed: list[bool] = []

    async def fails(state: Numbers) -> dict[str, Any]:
        found = interrupt("a?")
        if not failed:
            failed.append(True)
            raise RuntimeError("at first")
        return {"numbers": [found, interrupt("b?")]}

    nodes = Nodes()
    graph: Any = StateGraph(Numbers)
    for name, node in (("fails", fails), ("asks", nodes.asking("asks", "c?")), ("twice", nodes.asking("", "d?", "e?"))):
        graph.add_node(name, node)
        graph.add_edge(START, name)
    await start_worker(graph_agent(graph, checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    asked = []
    for count in range(1, 6):
        asked.append((await asked_input(sql, message_id, count))["question"])
        await give_input(sql, message_id, asked[-1].upper())
    row = await settled(sql, message_id)
    assert sorted(asked) == ["a?", "b?", "c?", "d?", "e?"]
    assert (await types(sql, message_id)).count("retry") == 1
    assert sorted(row["result"]) == ["A?", "B?", "C?", "D?", "E?"]


@pytest.mark.parametrize("inside", [False, True], ids=["plain", "inner"])
async def test_an_answer_that_the_graph_refuses_is_asked_for_again(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints, inside: bool
) -> None:
    """The answers to other questions, and the earlier ones of the same node, stay."""

    class Amount(BaseModel):
        amount: int

    async def pays(state: Numbers) -> dict[str, Any]:
        return {"numbers": [interrupt(text, response_schema=Amount).amount for text in ("first?", "second?")]}

    graph: Any = StateGraph(Numbers)
    for name, node in (("pays", pays), ("other", Nodes().asking("", "other?"))):
        graph.add_node(name, node)
        graph.add_edge(START, name)
    await start_worker(graph_agent(chain_graph(Numbers, inner=graph.compile()) if inside else graph, checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    given: dict[str, list[Any]] = {
        "first?": ["much", {"amount": "much"}, {"amount": 1}],
        "second?": [None, {"amount": 2}],
        "other?": [3],
    }
    asked = []
    for count in range(1, 7):
        asked.append(await asked_input(sql, message_id, count))
        await give_input(sql, message_id, given[asked[-1]["question"]].pop(0))
    row = await settled(sql, message_id)
    assert (row["state"], row["failures"], sorted(row["result"])) == ("completed", 0, [1, 2, 3]), row["error"]
    names = [one["name"] for one in asked if one["question"] != "other?"]
    first = names[0]
    assert names == [first, f"{first} again 1", f"{first} again 2", f"{first} 2", f"{first} 2 again 1"]


async def test_an_answer_outlives_the_attempt_that_received_it(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    """As after the death of a worker: the graph receives no signal."""
    reached = asyncio.Event()
    nodes = Nodes()

    async def ask(state: Numbers) -> dict[str, Any]:
        nodes.calls.append("ask")
        number = interrupt("how many?")
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return {"numbers": [number]}

    await start_worker(graph_agent(chain_graph(Numbers, one=nodes.plain("one"), ask=ask), checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    await asked_input(sql, message_id)
    await give_input(sql, message_id, 10)
    await wait_for(reached)
    await lose_lease(sql, message_id)
    row = await settled(sql, message_id)
    assert (row["state"], row["result"], nodes.calls) == ("completed", [0, 10], ["one", "ask", "ask", "ask"])
    assert (await types(sql, message_id)).count("parked") == 1


async def test_a_killed_process_does_not_ask_again(
    sql: Connection, settings: Settings, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
    monkeypatch.setenv("TEST_CHECKPOINTS", dsn)
    own = msgspec.structs.replace(settings, agents=("tests.support.crashing_graphs",))
    worker = build_worker(own, str(own.database_url), registry.load(own), isolation=Isolation(own))
    working = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker.ready or working.done())
        calls = tmp_path / "calls"
        message_id = await submit_lost(sql, {"calls": str(calls)}, agent="asks_and_crashes")
        await asked_input(sql, message_id)
        await give_input(sql, message_id, "sure")
        row = await settled(sql, message_id)
    finally:
        worker.stop()
        worker.stop()
        await working
    assert (row["state"], row["losses"], row["result"]) == ("completed", 2, ["one", "sure", "two"])
    assert calls.read_text().split() == ["one", "ask", "ask", "two", "two"]
    assert (await types(sql, message_id)).count("parked") == 1


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
async def test_a_super_step_whose_checkpoint_was_not_stored_runs_again(
    sql: Connection, start_worker: StartWorker, dsn: str, late: bool
) -> None:
    nodes = Nodes()
    graph = chain_graph(Numbers, **{name: nodes.plain(name) for name in ("one", "two", "three")})
    await start_worker(graph_agent(graph, failing_checkpoints(dsn, 2, late)))
    row = await run(sql, {"numbers": []}, agent="asks")
    assert (row["state"], row["failures"], row["result"]) == ("completed", 1, [0, 1, 2])
    assert nodes.calls == ["one", "two", "three"]
