"""The parts of an attempt's first request that every provider takes: the message, the thread's history, and what the
client set."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.agents.contract import Context, Rejected
from service.agents.rounds.client_tools import ClientTool, read_tools
from service.agents.rounds.options import ModelOptions


class ModelInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message that is more than text: content blocks, passed on to the model."""

    content: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]


def content_of(message: str | ModelInput) -> str | list[dict[str, Any]]:
    """Raises Rejected for an item that is not a content block."""
    if isinstance(message, str) or isinstance(message.content, str):
        return message if isinstance(message, str) else str(message.content)
    for number, block in enumerate(message.content):
        if not isinstance(block.get("type"), str):
            raise Rejected(f"The message's content[{number}] is not a content block: it has no type.")
    return message.content


def client_tools(context: Context, options: ModelOptions) -> list[ClientTool]:
    """The tools that the client runs, if the agent allows that. Raises Rejected."""
    given = context.metadata.get("tools") if "tools" in options.client_options else None
    return [] if given is None else read_tools(given, options.toolbox)


def max_tokens_of(context: Context, options: ModelOptions) -> int | None:
    """The longest answer of one call; None if neither the agent nor the client bounds it."""
    if "max_tokens" not in options.client_options:
        return options.max_tokens
    value = context.metadata.get("max_tokens", options.max_tokens)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Rejected("metadata.max_tokens must be a whole number above 0.")
    return value


def system_of(context: Context, options: ModelOptions) -> str:
    value = context.metadata.get("system") if "system" in options.client_options else None
    if value is not None and not isinstance(value, str):
        raise Rejected("metadata.system must be a text.")
    return "\n\n".join(part for part in (options.system, value) if part)


async def history_of(context: Context, options: ModelOptions, system: str) -> list[dict[str, Any]]:
    """The thread's earlier exchanges as messages of user and assistant. Exchanges of other agents that are not text are
    left out."""
    if not options.history:
        return []
    exchanges = await context.history(options.history, max_tokens=options.history_tokens, system=system)
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        content = _content(exchange.message)
        # The APIs refuse empty messages, and some of them two messages of the same role in a row.
        answer = exchange.result if isinstance(exchange.result, str) else options.earlier_text(exchange.result)
        if content and answer and (answer := answer.rstrip()):
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return messages


def _content(message: Any) -> str | list[dict[str, Any]] | None:
    """An earlier message as the API takes it; None if it is empty or not made of text or content blocks."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, str):
        return content if content.strip() else None
    if isinstance(content, list) and all(isinstance(b, dict) and isinstance(b.get("type"), str) for b in content):
        return content or None
    return None
