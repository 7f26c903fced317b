"""What adapters write into a message's log, the same whatever the framework: tool calls, and anything as plain JSON."""

from typing import Any

import msgspec

from service.agents.contract import Context


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of a `tool` event: a model asks for a tool; `source` is the agent of a team that does."""

    id: str
    name: str
    input: Any
    source: str | None = None


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Data of a `tool` event: what the call with this id came to; `failed` where that is an error's text."""

    id: str
    name: str
    output: Any
    failed: bool = False
    source: str | None = None


def plain(value: Any) -> Any:
    """The value as JSON knows it: frameworks' models as objects, what has no such form as its text."""
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_plainly)
    except (TypeError, ValueError, RecursionError):
        return str(value)


async def tell(context: Context, event: str, /, **data: Any) -> None:
    """Write an event; one that is too large for the log without its last field."""
    try:
        await context.event(event, plain(data))
    except ValueError:
        data.popitem()
        await context.event(event, plain(data) | {"omitted": "larger than an event may be"})


def _plainly(value: Any) -> Any:
    if hasattr(value, "response_metadata"):  # a message of LangChain, whose many empty fields tell nothing
        return {"type": value.type, **value.model_dump(mode="json", exclude_defaults=True)}
    if hasattr(value, "model_dump"):  # a pydantic model
        return value.model_dump(mode="json")
    return str(value)
