"""From messages to answers: pure functions."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from service.messages.model import Status
from service.protocols.openai.ids import ResponseId
from service.protocols.openai.model import Item, Kept, Response, Usage
from service.protocols.openai.translate import message_item
from service.token_counts import INPUT_NAMES, OUTPUT_NAMES, first_count


def kept_of(message: Status) -> Kept:
    """Empty for a message that came another way."""
    try:
        return msgspec.convert(message.metadata.get("openai", {}), Kept)
    except msgspec.ValidationError:
        return Kept()


def response_of(response_id: ResponseId, message: Status) -> Response:
    """The response as of its creation."""
    kept = kept_of(message)
    return Response(
        id=str(response_id),
        created_at=_seconds(message.created_at),
        status="queued",
        background=bool(kept.background),
        conversation=None if kept.conversation is None else {"id": kept.conversation},
        instructions=kept.instructions,
        max_output_tokens=kept.max_output_tokens,
        metadata=kept.metadata or {},
        model=message.agent,
        output=[],
        parallel_tool_calls=kept.parallel_tool_calls is not False,
        previous_response_id=kept.previous_response_id,
        reasoning=kept.reasoning,
        store=kept.store is not False,
        temperature=1.0 if kept.temperature is None else kept.temperature,
        text=_with_format(kept.text or {}),
        tool_choice=_flat(kept.tool_choice or "auto"),
        tools=[_with_fields(_flat(tool)) for tool in kept.tools or []],
        top_p=1.0 if kept.top_p is None else kept.top_p,
        user=kept.user,
    )


def _with_format(text: dict[str, Any]) -> dict[str, Any]:
    """The settings of the text, with every field of its format."""
    given = text.get("format")
    asked = given if isinstance(given, dict) else {"type": "text"}
    if asked.get("type") == "json_schema":
        asked = {"description": None, "strict": False, **asked}
    return {**text, "format": asked}


def _flat(tool: Any) -> Any:
    """A function as the Responses API names it; chat completions wrap it once more."""
    if isinstance(tool, dict) and isinstance(function := tool.get("function"), dict):
        return {"type": "function", **function}
    return tool


def _with_fields(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}


def usage_of(message: Status) -> Usage:
    """Of the tokens that the agent reported, by the names of several model APIs."""
    reported = message.usage or {}
    read, written = (first_count(reported, f"cache_{kind}_input_tokens") for kind in ("read", "creation"))
    given = first_count(reported, *INPUT_NAMES) + written + read
    made = first_count(reported, *OUTPUT_NAMES)
    return Usage(
        given,
        {"cached_tokens": read, "cache_write_tokens": written},
        made,
        {"reasoning_tokens": first_count(reported, "reasoning_tokens")},
        given + made,
    )


def input_items(message: Status) -> list[Item]:
    """The input as the client sent it, each item with an id."""
    given = kept_of(message).input
    return complete_items(message.message_id.hex, given) if isinstance(given, list) else [user_item(message)]


def complete_items(owner: str, given: Sequence[Item]) -> list[Item]:
    """Items as a client sent them, each with an id."""
    ids = (f"item_{owner}_{number}" for number in range(len(given)))
    return [
        {"id": item_id, "type": "message", "status": "completed", **item, "content": _parts(item)}
        if item.get("type", "message") == "message"
        else {"id": item_id, **item}
        for item_id, item in zip(ids, given, strict=True)
    ]


def user_item(message: Status) -> Item:
    said = message.user_message
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return {
        "id": f"item_{message.message_id.hex}",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": text}],
    }


def exchange_items(message: Status) -> list[Item]:
    """What a message and its answer are in a conversation."""
    items = [user_item(message)]
    if message.state == "completed":
        answer = message.result if isinstance(message.result, str) else msgspec.json.encode(message.result).decode()
        items.append(message_item(f"msg_{message.message_id.hex}", answer, "completed"))
    return items


def _parts(item: Item) -> Any:
    content = item.get("content")
    if not isinstance(content, str):
        return content
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    return [{"type": kind, "text": content}]


def _seconds(at: datetime) -> int:
    return int(at.timestamp())
