"""A LangGraph graph as an agent: tokens are streamed, each node writes an event, and with a checkpointer a new attempt
continues where the last one ended.

    from treadle.adapters import langgraph_agent

    assistant = langgraph_agent("assistant", graph, timeout=300)

The graph's thread is the Treadle message: its checkpoints record the progress of this message. The conversation belongs
to Treadle: by default the thread's history precedes the message in the graph's `messages`.

A graph that asks a person (`interrupt()`, `interrupt_before`, `interrupt_after`) parks the message, and continues with
the answer.
"""

from collections.abc import Callable, Collection
from typing import Any, Unpack

from service.agents.adapters.frameworks import require
from service.agents.adapters.langgraph.runner import Runner
from service.agents.adapters.langgraph.schemas import schemas_of
from service.agents.contract import Context
from service.agents.definition import Agent, input_type
from service.agents.limits import LimitOptions


def langgraph_agent(
    name: str,
    graph: Any,
    *,
    input: Callable[[Context, Any], Any] | None = None,
    output: str | Callable[[Any], Any] | None = None,
    checkpointer: Any = None,
    nodes: Collection[str] | None = None,
    keep_state: bool = False,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a graph an agent.

    graph         A compiled graph, a StateGraph, or a function that makes one, sync or async, also as an async context
                  manager; it is called when the first message arrives. One that takes an argument receives the config
                  of the run, and is called for each attempt.
    input         A function, sync or async, from context and message to the graph's input. The annotation of its
                  message is the agent's input type. Default: a text becomes the last of `messages`, after the thread's
                  history; an object is the graph's input unchanged, except that its `messages` may come only from a
                  user or an assistant, because the client did not write the orders and called no tools.
    output        The result: a key of the final state, or a function of the state. Default: the text of the last
                  message of a model; without such a message, the whole state.
    checkpointer  A saver, or a function that returns an async context manager of one, entered for each attempt.
                  Default: the graph's own checkpointer, if it has one.
    nodes         The nodes whose tokens are the answer. Default: all.
    keep_state    Whether a message continues from the graph's whole state after the last message of its thread, which
                  the thread's memory keeps. Default: only in threads of clients of LangGraph's own API (/langgraph).
                  With `input` there is no such state.
    limits        The options of every agent; see `treadle.Limits`.

    Raises ImportError if LangGraph is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    framework = require("langgraph", framework="LangGraph", extra="langgraph")
    runner = Runner(name, graph, input, output=output, checkpointer=checkpointer, nodes=nodes, keep_state=keep_state)

    async def answer(context: Context, message: Any) -> Any:
        """Runs a LangGraph graph."""
        return await runner.run(context, message)

    answer.__annotations__["message"] = str | dict[str, Any] if input is None else input_type(input)
    made = Agent(name, answer, **limits)
    made.settings |= {"graph": schemas_of(runner.graph), "framework": framework}
    return made
