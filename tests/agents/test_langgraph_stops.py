"""LangGraph graphs with breakpoints, and graphs that may not ask a person."""

from typing import Any

import pytest
from langgraph.checkpoint.memory import MemorySaver

from service.agents.adapters.langgraph.attempt import NEEDS_LASTING_CHECKPOINTER
from service.agents.adapters.langgraph.pauses import INNER_GRAPH_CANNOT_CONTINUE
from service.db.pool import Connection
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


@pytest.fixture
async def checkpoints(dsn: str) -> Checkpoints:
    return await stored_checkpoints(dsn)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_graph_stops_at_its_breakpoints(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints, when: str
) -> None:
    nodes = Nodes()
    graph = chain_graph(Numbers, one=nodes.plain("one"), two=nodes.asking("two", "two?"), three=nodes.plain("three"))
    stops: Any = {"interrupt_before": ["two", "three"]} if when == "before" else {"interrupt_after": ["one", "three"]}
    await start_worker(graph_agent(graph.compile(**stops), checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    first = await asked_input(sql, message_id)
    assert first["question"] == ({"before": ["two"]} if when == "before" else {"after": ["one"]})
    assert (first["name"].partition(" ")[0], nodes.calls) == ("breakpoint", ["one"])
    await give_input(sql, message_id, None)
    assert (await asked_input(sql, message_id, 2))["question"] == "two?"
    await give_input(sql, message_id, 2)
    if when == "before":  # no checkpoint follows the last node
        last = await asked_input(sql, message_id, 3)
        assert (last["question"], nodes.calls) == ({"before": ["three"]}, ["one", "two", "two"])
        await give_input(sql, message_id, "whatever")
    row = await settled(sql, message_id)
    assert (row["result"], nodes.calls) == ([0, 2, 2], ["one", "two", "two", "three"])


@pytest.mark.parametrize("stop", ["interrupt_before", "interrupt_after"])
async def test_an_inner_graph_has_its_own_breakpoints(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints, stop: str
) -> None:
    nodes = Nodes()
    inner = chain_graph(Numbers, one=nodes.plain("one"), two=nodes.plain("two")).compile(**{stop: ["one", "two"]})  # type: ignore[arg-type]
    graph = chain_graph(Numbers, outer=inner, last=nodes.plain("last"))
    await start_worker(graph_agent(graph.compile(interrupt_before="*"), checkpoints))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    questions = []
    for count in (1, 2, 3, 4):
        questions.append((await asked_input(sql, message_id, count))["question"])
        await give_input(sql, message_id, True)
    when = stop.rpartition("_")[2]
    assert questions == [
        {"before": ["outer"]},
        {when: ["outer/one"]},
        {when: ["outer/two"]},
        {"before": ["last"]},
    ]
    await settled(sql, message_id)
    assert nodes.calls == ["one", "two", "last"]


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("stop", ["interrupt_before", "interrupt_after"])
async def test_a_breakpoint_is_kept_if_the_worker_dies_before_it(
    sql: Connection, start_worker: StartWorker, dsn: str, stop: str
) -> None:
    """LangGraph does not stop a run at the checkpoint where it starts. Here the worker dies before the stop."""
    nodes = Nodes()
    graph = chain_graph(Numbers, one=nodes.plain("one"), two=nodes.plain("two"))
    stops: Any = {"interrupt_before": ["two"]} if stop == "interrupt_before" else {"interrupt_after": ["one"]}
    await start_worker(graph_agent(graph.compile(**stops), failing_checkpoints(dsn, 1, True)))
    message_id = await submit(sql, {"numbers": []}, agent="asks")
    await asked_input(sql, message_id)
    assert (nodes.calls, (await types(sql, message_id)).count("retry")) == (["one"], 1)
    await give_input(sql, message_id, True)
    row = await settled(sql, message_id)
    assert (row["result"], nodes.calls) == ([0, 1], ["one", "two"])


# Graphs that may not ask


@pytest.mark.parametrize("static", [False, True], ids=["interrupt", "breakpoint"])
@pytest.mark.parametrize("saver", [None, MemorySaver()], ids=["none", "memory"])
async def test_a_graph_without_lasting_checkpoints_may_not_ask(
    sql: Connection, start_worker: StartWorker, saver: Any, static: bool
) -> None:
    nodes = Nodes()
    graph = chain_graph(Numbers, ask=nodes.asking("ask", "How many?"))
    await start_worker(graph_agent(graph.compile(interrupt_before=["ask"] if static else None), saver))
    row = await run(sql, {"numbers": []}, agent="asks")
    assert (row["state"], row["attempt"], row["error"]) == ("failed", 1, NEEDS_LASTING_CHECKPOINTER)


async def test_a_graph_created_by_a_node_may_not_have_breakpoints(
    sql: Connection, start_worker: StartWorker, checkpoints: Checkpoints
) -> None:
    """LangGraph does not list it, so a later attempt does not know where it must stop."""
    nodes = Nodes()

    async def makes(state: Numbers) -> dict[str, Any]:
        inner = chain_graph(Numbers, one=nodes.plain("one")).compile(interrupt_before=["one"])
        return {"numbers": (await inner.ainvoke({"numbers": []}))["numbers"]}

    await start_worker(graph_agent(chain_graph(Numbers, makes=makes), checkpoints))
    row = await run(sql, {"numbers": []}, agent="asks")
    assert (row["state"], row["attempt"], row["error"]) == ("failed", 1, INNER_GRAPH_CANNOT_CONTINUE)
