"""The events that the adapters write, the same for every framework: tool calls, tool results, and any value as JSON."""

from collections import Counter
from typing import Any

import msgspec

from service.agents.contract import Context

TOO_LARGE = "larger than an event may be"
MAX_QUOTED_TYPE_CHARS = 100
MAX_NAME_CHARS = 80  # of a tool's name, or of the id of a call, in the name of a step


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of a `tool` event: a model calls a tool. `source` is the agent of a team whose model it is."""

    id: str
    name: str
    input: Any
    source: str | None = None


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of a `tool` event: the result of the call with this id. With `failed`, `output` is an error's text."""

    id: str
    name: str
    output: Any
    failed: bool = False
    source: str | None = None


def plain(value: Any) -> Any:
    """The value as plain JSON. Models of frameworks become objects; other values without a JSON form become text."""
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_encode_model)
    except (TypeError, ValueError, RecursionError):
        return str(value)


async def write_chosen_event(context: Context, type: str, data: Any) -> None:
    """Write an event whose type another program chose. A type that agents cannot write becomes `progress`, with
    {"event": type, "data": data}. Data that are too large for the log are left out."""
    data = plain(data)
    for fitting in (data, {"omitted": TOO_LARGE}):
        try:
            await context.event(type, fitting)
        except ValueError:  # the type or the size
            continue
        return
    await write_event(context, "progress", event=type[:MAX_QUOTED_TYPE_CHARS], data=data)


async def write_tool_event(context: Context, event: ToolCall | ToolResult) -> None:
    """Write a `tool` event; input or output, which may be too large, is the field that is left out then."""
    fields = plain(event)
    large = "input" if isinstance(event, ToolCall) else "output"
    value = fields.pop(large)
    await write_event(context, "tool", **fields, **{large: value})


async def write_event(context: Context, event: str, /, **data: Any) -> None:
    """Write an event with these data. If they are too large for the log, the last field is left out."""
    try:
        await context.event(event, plain(data))
    except ValueError:
        data.popitem()
        await context.event(event, plain(data) | {"omitted": TOO_LARGE})


def _encode_model(value: Any) -> Any:
    if hasattr(value, "response_metadata"):  # a message of LangChain: most of its fields are empty
        return {"type": value.type, **value.model_dump(mode="json", exclude_defaults=True)}
    if hasattr(value, "model_dump"):  # a pydantic model
        return value.model_dump(mode="json")
    return str(value)


class ToolSteps:
    """The names of the steps of one attempt that store what tools answer. Some servers of models repeat the id of a
    call: from the second one on, the name has a number."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def name(self, tool: str, call_id: str) -> str:
        name = f"tool {tool[:MAX_NAME_CHARS]} {call_id[:MAX_NAME_CHARS]}"
        self._begun[name] += 1
        return name if self._begun[name] == 1 else f"{name} {self._begun[name]}"
