"""What distinguishes one agent that asks Claude from another: model, prompt, tools, bounds and prices."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from service.agents.claude.tools import Declared, Toolbox

MIN_THINKING_TOKENS = 1024
WINDOW_TOKENS = 200_000  # that every Claude model takes in one request
OWN_TOKENS = 30_000  # for the message itself (MAX_MESSAGE_CHARS) and the definitions of tools
MIN_HISTORY_TOKENS = 10_000

ClientOption: TypeAlias = Literal["system", "max_tokens", "tools"]
"""What a client may set in a message's metadata, if the agent's author allows it."""


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Dollars for a million tokens. Prices of the prompt cache that are not given follow from `input`, by the factors
    of Anthropic's price list."""

    input: Annotated[float, Meta(ge=0)]
    output: Annotated[float, Meta(ge=0)]
    cache_write: Annotated[float, Meta(ge=0)] | None = None
    cache_read: Annotated[float, Meta(ge=0)] | None = None

    def dollars(self, usage: Mapping[str, int]) -> float:
        """What these tokens cost; `usage` has the names of the Messages API."""
        write = 1.25 * self.input if self.cache_write is None else self.cache_write
        read = 0.1 * self.input if self.cache_read is None else self.cache_read
        micro = (
            self.input * usage.get("input_tokens", 0)
            + self.output * usage.get("output_tokens", 0)
            + write * usage.get("cache_creation_input_tokens", 0)
            + read * usage.get("cache_read_input_tokens", 0)
        )
        return round(micro / 1_000_000, 9)


class ClaudeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of claude_agent, checked. `parameters` are further parameters of the Messages API;
    `client_options` the keys of a message's metadata that count."""

    model: str | None
    system: str | None
    toolbox: Toolbox
    max_tokens: int
    thinking: dict[str, Any] | None
    history: int
    history_tokens: int
    price: Price | None
    max_calls: int
    parameters: dict[str, Any]
    client_options: frozenset[str]

    @property
    def thinking_tokens(self) -> int:
        """How many tokens the model may think, if `thinking` names a number."""
        return int((self.thinking or {}).get("budget_tokens", 0))


def check(
    *,
    model: str | None,
    system: str | None,
    tools: Sequence[Declared],
    max_tokens: int,
    thinking: int | Mapping[str, Any] | None,
    history: int,
    history_tokens: int | None,
    price: Mapping[str, float] | None,
    max_calls: int,
    parameters: Mapping[str, Any] | None,
    client_options: Sequence[ClientOption],
) -> ClaudeOptions:
    """Raises ValueError or TypeError for an argument that cannot be used."""
    if max_tokens < 1 or max_calls < 1 or history < 0:
        raise ValueError("max_tokens and max_calls are at least 1, history at least 0")
    if isinstance(thinking, int):
        if not MIN_THINKING_TOKENS <= thinking < max_tokens:
            raise ValueError(f"thinking is at least {MIN_THINKING_TOKENS} tokens and below max_tokens ({max_tokens})")
        thinking = {"type": "enabled", "budget_tokens": thinking}
    if isinstance(client_options, str) or not set(client_options) <= set(get_args(ClientOption)):
        raise ValueError(f"client_options is a list of {', '.join(get_args(ClientOption))}, not {client_options!r}")
    return ClaudeOptions(
        model=model,
        system=system,
        toolbox=Toolbox(tools),
        max_tokens=max_tokens,
        thinking=dict(thinking) if thinking else None,
        history=history,
        history_tokens=_history_tokens(max_tokens) if history_tokens is None else history_tokens,
        price=_price(price),
        max_calls=max_calls,
        parameters=dict(parameters or {}),
        client_options=frozenset(client_options),
    )


def _history_tokens(max_tokens: int) -> int:
    """Tokens of history that leave room in the model's window for the answer, the message and the tools. They are
    counted by bytes, so a third of the window is left for the error."""
    return max(MIN_HISTORY_TOKENS, WINDOW_TOKENS * 2 // 3 - max_tokens - OWN_TOKENS)


def _price(price: Mapping[str, float] | None) -> Price | None:
    try:
        return None if price is None else msgspec.convert(dict(price), Price)
    except msgspec.ValidationError as error:
        raise ValueError(f"the price does not fit: {error}") from None
