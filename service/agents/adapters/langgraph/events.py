"""Translates the output of a running graph into the message's events: `tool`, `node`, `progress`, and others."""

from collections.abc import Sequence
from typing import Any

from service.agents.contract import Context
from service.agents.tool_events import ToolCall, ToolResult, write_chosen_event, write_event, write_tool_event


async def write_custom(context: Context, data: Any) -> None:
    """Write the event for what a node passes to get_stream_writer(): {"event": type, "data": ...} has its own type,
    anything else is `progress`."""
    if isinstance(data, dict) and data.keys() == {"event", "data"} and isinstance(data["event"], str):
        await write_chosen_event(context, data["event"], data["data"])
    else:
        await write_chosen_event(context, "progress", data)


async def write_updates(context: Context, namespace: Sequence[str], updates: dict[str, Any], written: set[str]) -> None:
    """Write an event for each node that ended, each tool call and each tool result. `written` remembers the tool
    events, because an outer graph repeats the messages of an inner one."""
    for node, update in updates.items():
        if node.startswith("__"):
            continue
        for message in _messages(update):
            for event in _tool_events(message):
                key = f"{type(event).__name__} {event.id}"
                if key not in written:
                    written.add(key)
                    await write_tool_event(context, event)
        path = "/".join([*(part.partition(":")[0] for part in namespace), node])
        await write_event(context, "node", node=path, update=update)


def is_from_model(message: Any) -> bool:
    return getattr(message, "type", None) in {"ai", "AIMessageChunk"}


def message_text(message: Any) -> str:
    """The text of a message without its other content blocks."""
    text = message.text  # a method in langchain-core 0.3, a property since then
    return str(text if isinstance(text, str) else text())


def _messages(update: Any) -> list[Any]:
    """The messages in a node's update."""
    values = update.values() if isinstance(update, dict) else [update]
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in items if hasattr(item, "content") and hasattr(item, "type")]


def _tool_events(message: Any) -> list[ToolCall | ToolResult]:
    if message.type == "tool":
        failed = getattr(message, "status", "success") == "error"
        return [ToolResult(message.tool_call_id, message.name or "", message.content, failed)]
    calls = getattr(message, "tool_calls", None) or []
    return [ToolCall(call["id"] or "", call["name"], call["args"]) for call in calls]
