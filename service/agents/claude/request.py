"""The first request that an attempt sends to Claude: prompt, tools, the thread's history, and the message."""

from typing import Any

from service.agents.claude.options import ClaudeOptions
from service.agents.contract import Context, Rejected
from service.agents.rounds.conversation import Conversation
from service.agents.rounds.request import ModelInput, client_tools, content_of, history_of, max_tokens_of, system_of


async def first_request(
    context: Context, options: ClaudeOptions, default_model: str, message: str | ModelInput
) -> tuple[dict[str, Any], Conversation]:
    """The parameters of the first call, and the conversation that its `messages` are. Raises Rejected if the message or
    its metadata cannot be used."""
    content = content_of(message)
    max_tokens, system = max_tokens_of(context, options) or options.max_tokens, system_of(context, options)
    if max_tokens <= options.thinking_tokens:
        raise Rejected(f"metadata.max_tokens must be above the {options.thinking_tokens} tokens of thinking.")
    request: dict[str, Any] = {"model": options.model or default_model, "max_tokens": max_tokens}
    if system:
        request["system"] = system
    if definitions := [*options.toolbox.definitions, *(tool.definition for tool in client_tools(context, options))]:
        request["tools"] = definitions
    if options.thinking:
        request["thinking"] = options.thinking
    if options.parameters:
        request["extra_body"] = options.parameters
    conversation = Conversation(await history_of(context, options, system), {"role": "user", "content": content})
    return request | {"messages": conversation.messages}, conversation
