"""An agent that asks a model of OpenAI, or of any server with the same API, through OpenAI's SDK.

    from treadle.adapters import openai_agent

    desk = openai_agent("desk", system="You answer customers.", tools=[find_order, refund], timeout=300)

It works as claude_agent does: the thread's history is the conversation, tokens are streamed, tools are typed Python
functions, and a retry repeats no model call and no tool call that has finished. The shipped agent `openai` is such an
agent without tools. The registry gives the agents the API key when a worker starts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from service.agents.adapters.frameworks import require
from service.agents.contract import Context
from service.agents.definition import Agent
from service.agents.limits import LimitOptions
from service.agents.openai.api import Api
from service.agents.openai.options import OpenAIOptions, check
from service.agents.openai.request import first_request
from service.agents.rounds.attempt import Attempt
from service.agents.rounds.mcp_tools import with_servers
from service.agents.rounds.options import ClientOption
from service.agents.rounds.request import ModelInput
from service.agents.rounds.tools import Declared
from service.limits import HISTORY_EXCHANGES

NAME = "openai"
DEFAULT_MAX_CALLS = 50


class OpenAIAgent(Agent):
    """An agent that asks after `connect`. A worker without an API key does not have such agents."""

    key_setting = "OPENAI_API_KEY"

    def __init__(self, name: str, options: OpenAIOptions, **limits: Unpack[LimitOptions]) -> None:
        super().__init__(name, self._answer, **limits)
        self._options = options
        self._api: Api | None = None

    def connect(self, api: Api) -> "OpenAIAgent":
        self._api = api
        return self

    async def _answer(self, context: Context, message: str | ModelInput) -> Any:
        """Answers with a GPT model; the thread's history is the conversation."""
        if self._api is None:
            raise RuntimeError(f"The agent {self.name} is not connected to an API.")
        async with with_servers(self._options) as options:
            attempt = Attempt(options, self._api, context)
            text = await attempt.run(*await first_request(context, options, self._api, message))
        return text if self._options.output is None else self._options.output.read(text)


def openai_agent(
    name: str,
    *,
    model: str | None = None,
    system: str | None = None,
    tools: Sequence[Declared] = (),
    output: Any = None,
    max_tokens: int | None = None,
    history: int = HISTORY_EXCHANGES,
    history_tokens: int | None = None,
    price: Mapping[str, float] | None = None,
    max_calls: int = DEFAULT_MAX_CALLS,
    options: Mapping[str, Any] | None = None,
    client_options: Sequence[ClientOption] = (),
    mcp_servers: Sequence[str | Mapping[str, Any]] = (),
    **limits: Unpack[LimitOptions],
) -> OpenAIAgent:
    """Make an agent that asks an API with OpenAI's chat completions (OPENAI_API_KEY, OPENAI_BASE_URL).

    model           The model. Default: the setting MODEL_NAME.
    system          The system prompt.
    tools           Functions, sync or async; or definitions (dicts) of tools, passed on unchanged.
    output          The form of the result: a Struct or another type of an object, or a JSON Schema. An answer that
                    does not fit is a failure. Default: the result is the text.
    max_tokens      The longest answer of one model call, in tokens. Default: the API's.
    history         How many of the thread's last completed messages are the conversation.
    history_tokens  The most tokens of that history together with the system prompt. Default: 50,000. If the API refuses
                    a request nevertheless, it is asked again with less history.
    price           Dollars for a million tokens: `input`, `output`, and optionally `cache_read`.
    max_calls       The most model calls for one message.
    options         Further parameters of chat completions, for example `temperature` or `reasoning_effort`.
    client_options  What clients may set in a message's metadata: as for claude_agent, and `output`, the
                    `response_format` or `text.format` of clients of /v1. Default: nothing.
    mcp_servers     MCP servers whose tools the model may call: URLs, or fields of McpServer: `url` and `headers`, or
                    `command`, `args`, `env` and `cwd`; and `name`, `tools`.
    limits          The options of every agent; see `treadle.Limits`.

    Raises ImportError if the SDK is not installed, ValueError or TypeError for an argument that cannot be used.
    """
    require("openai", framework="OpenAI's SDK", extra="openai")
    checked = check(
        model=model,
        system=system,
        tools=tools,
        output=output,
        max_tokens=max_tokens,
        history=history,
        history_tokens=history_tokens,
        price=price,
        max_calls=max_calls,
        options=options,
        client_options=client_options,
        mcp_servers=mcp_servers,
    )
    return OpenAIAgent(name, checked, **limits)
