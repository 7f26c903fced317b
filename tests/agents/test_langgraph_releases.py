"""LangGraph graphs that change between the attempts of a message, and what they write that does not fit the log."""

from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from service.config import Settings
from service.db.pool import Connection
from tests.support.fixture_types import StartWorker
from tests.support.graphs import Checkpoints, chain_graph, stored_checkpoints
from tests.support.inputs import asked_input, give_input
from tests.support.messages import log, run, settled, submit, types
from tests.support.waiting import until
from tests.support.workers import running_worker
from treadle import Agent
from treadle.adapters import langgraph_agent


@pytest.fixture
async def checkpoints(dsn: str) -> Checkpoints:
    return await stored_checkpoints(dsn)


async def draft(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage("draft")]}


async def fails(state: Any) -> dict[str, Any]:
    raise RuntimeError("not yet")


async def signs(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage("signed")]}


async def asks(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(f"signed: {interrupt('May I sign?')}")]}


async def goes(state: Any) -> Command[Any]:
    return Command(goto="SECOND", update={"messages": [AIMessage("draft")]})


def chain(second: str, node: Any) -> Any:
    return chain_graph(MessagesState, draft=draft, **{second: node})


def inner(second: str, node: Any) -> Any:
    return chain_graph(MessagesState, start=draft, team=chain(second, node).compile())


def sends(second: str, node: Any) -> Any:
    graph: Any = StateGraph(MessagesState)
    graph.add_node("draft", draft)
    graph.add_node(second, node)
    graph.add_edge(START, "draft")
    graph.add_conditional_edges("draft", lambda state: [Send(second, state)], [second])
    return graph


def joins(second: str, node: Any) -> Any:
    """`write` waits for two nodes; the second one fails before it is renamed together with what follows."""
    graph: Any = StateGraph(MessagesState)
    for name, one in (("draft", draft), ("other", node), (second, signs)):
        graph.add_node(name, one)
    graph.add_edge(START, "draft")
    graph.add_edge("draft", "other")
    graph.add_edge(["draft", "other"], second)
    return graph


def agent_of(graph: Any, checkpoints: Checkpoints) -> Agent:
    return langgraph_agent("signs", graph, checkpointer=checkpoints)


@pytest.mark.parametrize("make", [chain, inner, sends, joins])
async def test_a_retry_does_not_end_a_graph_that_lost_its_node(
    sql: Connection, settings: Settings, checkpoints: Checkpoints, make: Any
) -> None:
    async with running_worker(sql, settings, agent_of(make("write", fails), checkpoints), retry_base_seconds=1000):
        message_id = await submit(sql, {"messages": []}, agent="signs", max_attempts=9)
        await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    await sql.execute("update treadle.messages set run_at = now()")
    async with running_worker(sql, settings, agent_of(make("publish", signs), checkpoints)):
        row = await settled(sql, message_id)
    assert row["state"] == "failed"
    assert "continue at the node 'write', which the graph does not have" in row["error"]


async def test_an_answer_does_not_end_a_graph_that_lost_its_node(
    sql: Connection, settings: Settings, checkpoints: Checkpoints
) -> None:
    async with running_worker(sql, settings, agent_of(chain("write", asks), checkpoints)):
        message_id = await submit(sql, {"messages": []}, agent="signs")
        asked = await asked_input(sql, message_id)
    async with running_worker(sql, settings, agent_of(chain("publish", asks), checkpoints)):
        await give_input(sql, message_id, "yes", asked["name"])
        row = await settled(sql, message_id)
    assert row["state"] == "failed"
    assert "which the graph does not have" in row["error"]


async def large_result(state: Any) -> dict[str, Any]:
    return {"messages": [ToolMessage("x" * 2000, tool_call_id="1", name="fetch")]}


async def large_call(state: Any) -> dict[str, Any]:
    call = {"name": "save", "args": {"text": "x" * 2000}, "id": "1", "type": "tool_call"}
    return {"messages": [AIMessage("", tool_calls=[call])]}


async def large_event(state: Any) -> dict[str, Any]:
    get_stream_writer()({"event": "sources", "data": "x" * 2000})
    return {}


async def large_progress(state: Any) -> dict[str, Any]:
    get_stream_writer()("x" * 2000)
    return {}


async def taken_type(state: Any) -> dict[str, Any]:
    get_stream_writer()({"event": "error", "data": {"soft": True}})
    return {}


OMITTED = {"omitted": "larger than an event may be"}


@pytest.mark.parametrize(
    ("node", "type", "data"),
    [
        (large_result, "tool", {"id": "1", "name": "fetch", **OMITTED}),
        (large_call, "tool", {"id": "1", "name": "save", **OMITTED}),
        (large_event, "sources", OMITTED),
        (large_progress, "progress", OMITTED),
        (taken_type, "progress", {"event": "error", "data": {"soft": True}}),
    ],
)
async def test_what_does_not_fit_the_log_does_not_fail_the_run(
    sql: Connection, start_worker: StartWorker, node: Any, type: str, data: Any
) -> None:
    await start_worker(
        langgraph_agent("large", chain_graph(MessagesState, first=node, last=signs)), max_event_bytes=999
    )
    row = await run(sql, {"messages": []}, agent="large", max_attempts=1)
    assert (row["state"], row["result"]) == ("completed", "signed")
    assert data in [entry.data for entry in await log(sql, row["message_id"]) if entry.type == type]
