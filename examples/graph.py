"""A LangGraph graph as an agent. Install LangGraph, and start a worker with it from this repository's folder:

    .venv/bin/pip install -e '.[langgraph]'
    AGENTS=examples.graph make up
    .venv/bin/treadle send "bicycles" --agent haiku --follow

Its nodes call no model, so that it runs anywhere; one that does streams its tokens. With CHECKPOINTS, the address of a
PostgreSQL where LangGraph's tables are (AsyncPostgresSaver.setup() makes them), a retry goes on after the last node
that ended.
"""

import os
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph

from service.agents.langgraph import langgraph_agent


class State(MessagesState):
    subject: str


async def choose(state: State) -> dict[str, Any]:
    subject = str(state["messages"][-1].content)
    get_stream_writer()({"subject": subject})  # an event `progress`
    return {"subject": subject}


async def write(state: State) -> dict[str, Any]:
    lines = (f"{state['subject']} in the rain", "they wait for nobody now", "the queue moves along")
    return {"messages": [AIMessage("\n".join(lines))]}


graph = StateGraph(State)
graph.add_node("choose", choose)
graph.add_node("write", write)
graph.add_edge(START, "choose")
graph.add_edge("choose", "write")

address = os.environ.get("CHECKPOINTS")
haiku = langgraph_agent(
    "haiku",
    graph,
    checkpointer=(lambda: AsyncPostgresSaver.from_conn_string(address)) if address else None,
    timeout=120,
    description="Writes three lines about anything.",
)
