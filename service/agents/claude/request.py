"""The first request that an attempt sends to Claude: prompt, tools, the thread's history, and the message."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.agents.claude.client_tools import ClientTool, read_tools
from service.agents.claude.conversation import Conversation
from service.agents.claude.options import ClaudeOptions
from service.agents.contract import Context, Rejected


class ClaudeInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message that is more than text: content blocks of the Messages API, passed on unchanged."""

    content: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]


async def first_request(
    context: Context, options: ClaudeOptions, default_model: str, message: str | ClaudeInput
) -> tuple[dict[str, Any], Conversation]:
    """The parameters of the first call, and the conversation that its `messages` are. Raises Rejected if the message or
    its metadata cannot be used."""
    content = message if isinstance(message, str) else _checked_content(message.content)
    max_tokens, system = _max_tokens(context, options), _system(context, options)
    request: dict[str, Any] = {"model": options.model or default_model, "max_tokens": max_tokens}
    if system:
        request["system"] = system
    if definitions := [*options.toolbox.definitions, *(tool.definition for tool in client_tools(context, options))]:
        request["tools"] = definitions
    if options.thinking:
        request["thinking"] = options.thinking
    if options.parameters:
        request["extra_body"] = options.parameters
    conversation = Conversation(await _history(context, options, system), {"role": "user", "content": content})
    return request | {"messages": conversation.messages}, conversation


def client_tools(context: Context, options: ClaudeOptions) -> list[ClientTool]:
    """The tools that the client runs, if the agent allows that. Raises Rejected."""
    given = context.metadata.get("tools") if "tools" in options.client_options else None
    return [] if given is None else read_tools(given, options.toolbox)


def _checked_content(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Raises Rejected for an item that is not a content block."""
    if not isinstance(content, str):
        for number, block in enumerate(content):
            if not isinstance(block.get("type"), str):
                raise Rejected(f"The message's content[{number}] is not a content block: it has no type.")
    return content


def _max_tokens(context: Context, options: ClaudeOptions) -> int:
    if "max_tokens" not in options.client_options:
        return options.max_tokens
    value = context.metadata.get("max_tokens", options.max_tokens)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Rejected("metadata.max_tokens must be a whole number above 0.")
    if value <= options.thinking_tokens:
        raise Rejected(f"metadata.max_tokens must be above the {options.thinking_tokens} tokens of thinking.")
    return value


def _system(context: Context, options: ClaudeOptions) -> str:
    value = context.metadata.get("system") if "system" in options.client_options else None
    if value is not None and not isinstance(value, str):
        raise Rejected("metadata.system must be a text.")
    return "\n\n".join(part for part in (options.system, value) if part)


async def _history(context: Context, options: ClaudeOptions, system: str) -> list[dict[str, Any]]:
    """The thread's earlier exchanges as messages of user and assistant. Exchanges of other agents that are not text are
    left out."""
    if not options.history:
        return []
    exchanges = await context.history(options.history, max_tokens=options.history_tokens, system=system)
    messages: list[dict[str, Any]] = []
    for exchange in exchanges:
        content = _content(exchange.message)
        # The API refuses empty messages, and two messages of the same role in a row.
        if content and isinstance(exchange.result, str) and (answer := exchange.result.rstrip()):
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
