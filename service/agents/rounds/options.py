"""What distinguishes one agent that asks a model from another, whichever provider has the model."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from service.agents.rounds.mcp_server import McpServer, read_servers
from service.agents.rounds.tools import Declared, Toolbox

ClientOption: TypeAlias = Literal["system", "max_tokens", "tools", "output"]
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


class ModelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of a factory, checked. `parameters` are further parameters of the provider's API; `client_options`
    the keys of a message's metadata that count."""

    model: str | None
    system: str | None
    toolbox: Toolbox
    max_tokens: int | None
    history: int
    history_tokens: int
    price: Price | None
    max_calls: int
    parameters: dict[str, Any]
    client_options: frozenset[str]
    mcp_servers: tuple[McpServer, ...]

    def earlier_text(self, result: Any) -> str:
        """An earlier answer of the thread that is no text, as the model's own words; empty if it cannot be."""
        return ""


def checked(
    *,
    tools: Sequence[Declared],
    max_tokens: int | None,
    history: int,
    price: Mapping[str, float] | None,
    max_calls: int,
    options: Mapping[str, Any] | None,
    client_options: Sequence[ClientOption],
    mcp_servers: Sequence[str | Mapping[str, Any]],
) -> dict[str, Any]:
    """Fields of ModelOptions. Raises ValueError or TypeError for an argument that cannot be used."""
    if (max_tokens is not None and max_tokens < 1) or max_calls < 1 or history < 0:
        raise ValueError("max_tokens and max_calls are at least 1, history at least 0")
    if isinstance(client_options, str) or not set(client_options) <= set(get_args(ClientOption)):
        raise ValueError(f"client_options is a list of {', '.join(get_args(ClientOption))}, not {client_options!r}")
    return {
        "toolbox": Toolbox(tools),
        "max_tokens": max_tokens,
        "history": history,
        "price": _price(price),
        "max_calls": max_calls,
        "parameters": dict(options or {}),
        "client_options": frozenset(client_options),
        "mcp_servers": read_servers(mcp_servers),
    }


def _price(price: Mapping[str, float] | None) -> Price | None:
    try:
        return None if price is None else msgspec.convert(dict(price), Price)
    except msgspec.ValidationError as error:
        raise ValueError(f"the price does not fit: {error}") from None
