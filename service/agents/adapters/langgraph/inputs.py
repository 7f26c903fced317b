"""The input of a graph, where the author does not make it."""

from typing import Any

from service.agents.contract import Context, Rejected
from service.limits import HISTORY_TOKENS

SPEAKERS = {"user", "human", "assistant", "ai"}  # as LangChain names them


async def read_input(
    context: Context, message: str | dict[str, Any], *, is_asked: bool, has_state: bool
) -> dict[str, Any]:
    """`is_asked`: by a client of LangGraph's own API. `has_state`: the graph goes on with the state that an earlier
    message of the thread has left, so that the history is a part of it. Raises Rejected."""
    from langchain_core.messages import HumanMessage

    if isinstance(message, dict):
        refuse_orders(message.get("messages"))
        if not is_asked or has_state or "messages" not in message:
            return message
        said = message["messages"]
        return {**message, "messages": [*await _history(context), *(said if isinstance(said, list) else [said])]}
    history = [] if has_state else await _history(context)
    return {"messages": [*history, HumanMessage(message)]}


async def _history(context: Context) -> list[Any]:
    from langchain_core.messages import AIMessage, HumanMessage

    history: list[Any] = []
    for exchange in await context.history(max_tokens=HISTORY_TOKENS):
        if isinstance(exchange.message, str) and isinstance(exchange.result, str):
            history += [HumanMessage(exchange.message), AIMessage(exchange.result)]
    return history


def refuse_orders_in(state: Any) -> None:
    """In a state, or a change of one, that a client sent. Raises Rejected."""
    if isinstance(state, dict) and state.get("messages") is not None:
        refuse_orders(state["messages"])


def refuse_orders(messages: Any) -> None:
    """Raises Rejected for system messages, tool calls and tool results among the messages that a client sent."""
    for number, message in enumerate(messages if isinstance(messages, list) else [messages]):
        fields = message if isinstance(message, dict) else {}
        role = message[0] if isinstance(message, list) and message else fields.get("role", fields.get("type", "user"))
        if role not in SPEAKERS or fields.get("tool_calls") or fields.get("additional_kwargs"):
            raise Rejected(
                f"messages[{number}] is not a plain message of a user or an assistant: system messages and tool calls"
                " are the graph's own."
            )


def refuse_unreadable(graph: Any, start: Any) -> None:
    """Raises Rejected for messages that LangChain cannot read, in what a graph begins with or a change of its state:
    another attempt would find the same."""
    from langchain_core.messages import convert_to_messages
    from langgraph.graph.message import add_messages
    from langgraph.types import Command

    given_by_name: Any = start.update if isinstance(start, Command) else start
    if isinstance(start, Command) and isinstance(start.update, list):
        given_by_name = dict(pair for pair in start.update if isinstance(pair, tuple) and len(pair) == 2)
    for name, channel in getattr(graph, "channels", {}).items() if isinstance(given_by_name, dict) else ():
        if name in given_by_name and getattr(channel, "operator", None) is add_messages:
            given = given_by_name[name]
            try:
                convert_to_messages(given if isinstance(given, list) else [given])
            except Exception as error:  # LangChain has no class for it
                raise Rejected(f"LangChain cannot read {name}: {error}") from error
