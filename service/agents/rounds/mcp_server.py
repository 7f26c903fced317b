"""How an author names an MCP server whose tools a model may call."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from service.agents.adapters.frameworks import require
from service.agents.rounds.tools import NAME_PATTERN
from service.outbound import is_http_url


class McpServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server at a URL (streamable HTTP), or one that is started as a program and speaks over its standard streams.

    name     Begins the names of its tools, as `<name>__<tool>`. Default: they keep their names.
    headers  Sent with each request to the URL, for example an Authorization.
    tools    The tools that the model may call. Default: all.
    """

    name: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] | None = None  # beside a few harmless variables; the worker's own are not handed on
    cwd: str | None = None
    tools: list[str] | None = None

    def __post_init__(self) -> None:
        if (self.url is None) == (self.command is None):
            raise ValueError("an MCP server has either a url or a command")
        if self.url is not None and not is_http_url(self.url):
            raise ValueError(f"the url of an MCP server must begin with http:// or https://, not {self.url!r}")
        if self.name is not None and not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(f"the name of an MCP server has letters, digits, _ and -, not {self.name!r}")

    @property
    def place(self) -> str:
        return self.url or str(self.command)


def read_servers(given: Sequence[str | Mapping[str, Any]]) -> tuple[McpServer, ...]:
    """The servers of `mcp_servers`: URLs, or the fields of McpServer. Raises ValueError, and ImportError without the
    SDK."""
    if isinstance(given, str):
        raise ValueError("mcp_servers must be a list")
    if given:
        require("mcp", framework="The SDK of the Model Context Protocol", extra="mcp")
    try:
        return tuple(
            McpServer(url=server) if isinstance(server, str) else msgspec.convert(dict(server), McpServer)
            for server in given
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"mcp_servers: {error}") from None
