"""The first request of an attempt: prompt, tools, the thread's history, and the message, as chat completions."""

from typing import Any

from service.agents.contract import Context
from service.agents.openai.api import Api
from service.agents.openai.content import content_parts
from service.agents.openai.options import OpenAIOptions
from service.agents.openai.output import form_of_client
from service.agents.rounds.conversation import Conversation
from service.agents.rounds.request import ModelInput, client_tools, content_of, history_of, max_tokens_of, system_of


async def first_request(
    context: Context, options: OpenAIOptions, api: Api, message: str | ModelInput
) -> tuple[dict[str, Any], Conversation]:
    """The parameters of the first call, and the conversation that its `messages` are. Raises Rejected if the message or
    its metadata cannot be used."""
    system = system_of(context, options)
    request: dict[str, Any] = {"model": options.model or api.model}
    if max_tokens := max_tokens_of(context, options):
        # OpenAI's newer models refuse the old name, and other servers do not know the new one.
        request["max_completion_tokens" if api.is_openai else "max_tokens"] = max_tokens
    definitions = [*options.toolbox.definitions, *(tool.definition for tool in client_tools(context, options))]
    if definitions:
        request["tools"] = [_tool(definition) for definition in definitions]
    if options.output is not None:
        request["response_format"] = options.output.parameters
    elif "output" in options.client_options and (form := form_of_client(context.metadata)):
        request["response_format"] = form
    if options.parameters:
        request["extra_body"] = options.parameters
    history = await history_of(context, options, system)
    conversation = Conversation(
        [{**said, "content": content_parts(said["content"], left_out=True)} for said in history],
        {"role": "user", "content": content_parts(content_of(message))},
        orders=[{"role": "system", "content": system}] if system else (),
    )
    return request | {"messages": conversation.messages}, conversation


def _tool(definition: dict[str, Any]) -> dict[str, Any]:
    """A function as the API takes it; a definition that the author gave goes unchanged."""
    if "input_schema" not in definition:
        return definition
    function = {name: definition[name] for name in ("name", "description") if definition.get(name)}
    return {"type": "function", "function": {**function, "parameters": definition["input_schema"]}}
