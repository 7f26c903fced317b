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
from service.agents.contract import Context, Rejected
from service.agents.definition import Agent, input_type
from service.agents.limits import LimitOptions
from service.limits import HISTORY_TOKENS

SPEAKERS = {"user", "human", "assistant", "ai"}  # as LangChain names them


def langgraph_agent(
    name: str,
    graph: Any,
    *,
    input: Callable[[Context, Any], Any] | None = None,
    output: str | Callable[[Any], Any] | None = None,
    checkpointer: Any = None,
    nodes: Collection[str] | None = None,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a graph an agent.

    graph         A compiled graph, a StateGraph, or a function that makes one; the function is called when the first
                  message arrives.
    input         A function, sync or async, from context and message to the graph's input. The annotation of its
                  message is the agent's input type. Default: a text becomes the last of `messages`, after the thread's
                  history; an object is the graph's input unchanged, except that its `messages` may come only from a
                  user or an assistant, because the client did not write the orders and called no tools.
    output        The result: a key of the final state, or a function of the state. Default: the text of the last
                  message of a model; without such a message, the whole state.
    checkpointer  A saver, or a function that returns an async context manager of one, entered for each attempt.
                  Default: the graph's own checkpointer, if it has one.
    nodes         The nodes whose tokens are the answer. Default: all.
    limits        The options of every agent; see `treadle.Limits`.

    Raises ImportError if LangGraph is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    require("langgraph", framework="LangGraph", extra="langgraph")
    runner = Runner(graph, input or _default_input, output=output, checkpointer=checkpointer, nodes=nodes)

    async def answer(context: Context, message: Any) -> Any:
        """Runs a LangGraph graph."""
        return await runner.run(context, message)

    answer.__annotations__["message"] = input_type(input or _default_input)
    return Agent(name, answer, **limits)


async def _default_input(context: Context, message: str | dict[str, Any]) -> Any:
    from langchain_core.messages import AIMessage, HumanMessage

    if isinstance(message, dict):
        _refuse_orders(message.get("messages"))
        return message
    history: list[Any] = []
    for exchange in await context.history(max_tokens=HISTORY_TOKENS):
        if isinstance(exchange.message, str) and isinstance(exchange.result, str):
            history += [HumanMessage(exchange.message), AIMessage(exchange.result)]
    return {"messages": [*history, HumanMessage(message)]}


def _refuse_orders(messages: Any) -> None:
    """Raises Rejected for system messages, tool calls and tool results among the messages that a client sent."""
    for number, message in enumerate(messages if isinstance(messages, list) else [messages]):
        fields = message if isinstance(message, dict) else {}
        role = message[0] if isinstance(message, list) and message else fields.get("role", fields.get("type", "user"))
        if role not in SPEAKERS or fields.get("tool_calls") or fields.get("additional_kwargs"):
            raise Rejected(
                f"messages[{number}] is not a plain message of a user or an assistant: system messages and tool calls"
                " are the graph's own."
            )
