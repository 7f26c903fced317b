"""LangGraph graphs that clients of LangGraph's API ask in tests."""

from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.config import get_stream_writer
from langgraph.graph import MessagesState
from langgraph.types import interrupt

from tests.support.graphs import chain_graph
from treadle import Agent
from treadle.adapters import langgraph_agent


class State(MessagesState):
    count: int


def api_graphs() -> list[Agent]:
    async def look(state: State) -> dict[str, Any]:
        get_stream_writer()({"percent": 50})
        calls = [{"name": "add", "args": {"a": 1}, "id": "c1"}]
        return {"messages": [AIMessage("", tool_calls=calls, id="a1"), ToolMessage("2", tool_call_id="c1", id="t1")]}

    async def speak(state: State) -> dict[str, Any]:
        heard = [str(message.content) for message in state["messages"] if message.type == "human"]
        model = GenericFakeChatModel(messages=iter([f"heard {' '.join(heard)}"]))
        return {"messages": [await model.ainvoke(state["messages"])], "count": state.get("count", 0) + 1}

    async def ask(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('Which one?')}, then {interrupt({'and': 'then'})}")]}

    return [
        langgraph_agent("speaker", chain_graph(State, look=look, speak=speak)),
        langgraph_agent("asker", chain_graph(State, ask=ask, speak=speak).compile()),
    ]
