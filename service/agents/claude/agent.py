"""An agent that asks Claude, through the Anthropic SDK.

    from treadle.adapters import claude_agent

    desk = claude_agent("desk", system="You answer customers.", tools=[find_order, refund], timeout=300)

The thread's history is the conversation, tokens are streamed, and tools are typed Python functions. A retry repeats no
model call and no tool call that has finished. The shipped agent `claude` is such an agent without tools. The registry
gives the agents the API key when a worker starts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from service.agents.claude.api import Api
from service.agents.claude.options import ClaudeOptions, check
from service.agents.claude.request import first_request
from service.agents.contract import Context
from service.agents.definition import Agent
from service.agents.limits import LimitOptions
from service.agents.rounds.attempt import Attempt
from service.agents.rounds.mcp_tools import with_servers
from service.agents.rounds.options import ClientOption
from service.agents.rounds.request import ModelInput
from service.agents.rounds.tools import Declared
from service.limits import HISTORY_EXCHANGES

NAME = "claude"
DEFAULT_MAX_TOKENS = 4096  # of one model call
DEFAULT_MAX_CALLS = 50


class ClaudeAgent(Agent):
    """An agent that asks Claude after `connect`. A worker without an API key does not have such agents."""

    key_setting = "ANTHROPIC_API_KEY"

    def __init__(self, name: str, options: ClaudeOptions, **limits: Unpack[LimitOptions]) -> None:
        super().__init__(name, self._answer, **limits)
        self._options = options
        self._api: Api | None = None

    def connect(self, api: Api) -> "ClaudeAgent":
        self._api = api
        return self

    async def _answer(self, context: Context, message: str | ModelInput) -> str:
        """Answers with Claude; the thread's history is the conversation."""
        if self._api is None:
            raise RuntimeError(f"The agent {self.name} is not connected to the Anthropic API.")
        async with with_servers(self._options) as options:
            attempt = Attempt(options, self._api, context)
            return await attempt.run(*await first_request(context, options, self._api.model, message))


def claude_agent(
    name: str,
    *,
    model: str | None = None,
    system: str | None = None,
    tools: Sequence[Declared] = (),
    max_tokens: int = DEFAULT_MAX_TOKENS,
    thinking: int | Mapping[str, Any] | None = None,
    history: int = HISTORY_EXCHANGES,
    history_tokens: int | None = None,
    price: Mapping[str, float] | None = None,
    max_calls: int = DEFAULT_MAX_CALLS,
    options: Mapping[str, Any] | None = None,
    client_options: Sequence[ClientOption] = (),
    mcp_servers: Sequence[str | Mapping[str, Any]] = (),
    **limits: Unpack[LimitOptions],
) -> ClaudeAgent:
    """Make an agent that asks Claude.

    model           The model. Default: the setting MODEL_NAME.
    system          The system prompt.
    tools           Functions, sync or async; or definitions (dicts) of tools that Anthropic runs, passed on unchanged.
    max_tokens      The longest answer of one model call, in tokens.
    thinking        How many tokens the model may think, at least 1024; or the API's `thinking` object.
    history         How many of the thread's last completed messages are the conversation.
    history_tokens  The most tokens of that history together with the system prompt. Default: what fits into the window
                    of a Claude model beside message, tools and answer. If the API refuses a request nevertheless, it
                    is asked again with less history.
    price           Dollars for a million tokens: `input`, `output`, and optionally `cache_write` and `cache_read`.
    max_calls       The most model calls for one message.
    options         Further parameters of the Messages API, for example `temperature`.
    client_options  What clients may set in a message's metadata: `system`, a text that is added to the system prompt;
                    `max_tokens`, in place of the agent's; `tools`, functions that the client runs. Default: nothing,
                    because any client could change the agent's orders.
    mcp_servers     MCP servers whose tools the model may call: URLs, or fields of McpServer: `url` and `headers`, or
                    `command`, `args`, `env` and `cwd`; and `name`, `tools`.
    limits          The options of every agent; see `treadle.Limits`.

    Raises ValueError or TypeError for an argument that cannot be used.
    """
    checked = check(
        model=model,
        system=system,
        tools=tools,
        max_tokens=max_tokens,
        thinking=thinking,
        history=history,
        history_tokens=history_tokens,
        price=price,
        max_calls=max_calls,
        options=options,
        client_options=client_options,
        mcp_servers=mcp_servers,
    )
    return ClaudeAgent(name, checked, **limits)
