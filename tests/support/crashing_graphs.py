"""Graphs that isolated processes import: at first their last node ends the process, like a crash in a library."""

import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from treadle.adapters import langgraph_agent


class State(TypedDict):
    calls: str  # the file that every node writes its name to
    done: Annotated[list[str], lambda old, new: old + new]


def note(state: State, name: str) -> list[str]:
    with Path(state["calls"]).open("a") as file:
        file.write(f"{name}\n")
    return Path(state["calls"]).read_text().split()


async def one(state: State) -> dict[str, Any]:
    note(state, "one")
    return {"done": ["one"]}


async def two(state: State) -> dict[str, Any]:
    note(state, "two")
    return {"done": ["two"]}


async def three(state: State) -> dict[str, Any]:
    if note(state, "three").count("three") == 1:
        os._exit(3)
    return {"done": ["three"]}


graph = StateGraph(State)
graph.add_node("one", one)
graph.add_node("two", two)
graph.add_node("three", three)
graph.add_edge(START, "one")
graph.add_edge("one", "two")
graph.add_edge("two", "three")

crashes = langgraph_agent(
    "crashes",
    graph,
    output="done",
    checkpointer=lambda: AsyncPostgresSaver.from_conn_string(os.environ["TEST_CHECKPOINTS"]),
)


async def ask(state: State) -> dict[str, Any]:
    note(state, "ask")
    return {"done": [interrupt("Sure?")]}


async def dies(state: State) -> dict[str, Any]:
    if note(state, "two").count("two") == 1:
        os._exit(3)
    return {"done": ["two"]}


asking_graph = StateGraph(State)
asking_graph.add_node("one", one)
asking_graph.add_node("ask", ask)
asking_graph.add_node("two", dies)
asking_graph.add_edge(START, "one")
asking_graph.add_edge("one", "ask")
asking_graph.add_edge("ask", "two")

asks_and_crashes = langgraph_agent(
    "asks_and_crashes",
    asking_graph,
    output="done",
    checkpointer=lambda: AsyncPostgresSaver.from_conn_string(os.environ["TEST_CHECKPOINTS"]),
)
