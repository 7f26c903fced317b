"""LangGraph graphs as agents.

Run these commands in this repository's folder. The first one installs LangGraph; the second one starts Treadle with the
agents:

    .venv/bin/pip install -e '.[langgraph]'
    AGENTS=examples.graph make up
    .venv/bin/treadle send "bicycles" --agent haiku --follow

The nodes call no model, so the example needs no API key. If a node calls a model, its tokens are streamed.

Set CHECKPOINTS to the address of a PostgreSQL with LangGraph's tables (AsyncPostgresSaver.setup() creates them). Then a
retry continues after the last node that finished, and the agent `poem` can ask for a title: answer in the chat, or with
POST /messages/{id}/input.
"""

import os
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from treadle.adapters import langgraph_agent


class State(MessagesState):
    subject: str


async def choose(state: State) -> dict[str, Any]:
    subject = str(state["messages"][-1].content)
    get_stream_writer()({"subject": subject})  # writes an event `progress`
    return {"subject": subject}


async def write(state: State) -> dict[str, Any]:
    lines = (f"{state['subject']} in the rain", "the road is long and wet now", "the queue moves along")
    return {"messages": [AIMessage("\n".join(lines))]}


graph = StateGraph(State)
graph.add_node("choose", choose)
graph.add_node("write", write)
graph.add_edge(START, "choose")
graph.add_edge("choose", "write")

address = os.environ.get("CHECKPOINTS", "")
checkpoints = (lambda: AsyncPostgresSaver.from_conn_string(address)) if address else None
haiku = langgraph_agent(
    "haiku",
    graph,
    checkpointer=checkpoints,
    timeout=120,
    description="Writes three lines about anything.",
)


async def entitle(state: State) -> dict[str, Any]:
    title = interrupt("What is its title?")  # the message is parked until a person answers
    return {"messages": [AIMessage(f"{title}\n\n{state['messages'][-1].content}")]}


titled = StateGraph(State)
titled.add_node("haiku", graph.compile())
titled.add_node("entitle", entitle)
titled.add_edge(START, "haiku")
titled.add_edge("haiku", "entitle")

poem = langgraph_agent(
    "poem", titled, checkpointer=checkpoints, description="Writes the same lines and asks for a title."
)
