"""MCP servers whose tools a model may call: a connection for each attempt, through the official SDK.

    claude_agent("desk", mcp_servers=["https://mcp.example.org/mcp", {"command": "my-server", "args": ["--fast"]}])

Each call is a step like that of any tool, so that a later attempt repeats none that has finished.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import msgspec

from service.agents.contract import Context, Overloaded, Rejected
from service.agents.http_errors import error_for_answer
from service.agents.rounds.mcp_bodies import RETRY_AFTER, STATUS, bound_answer
from service.agents.rounds.mcp_lines import ENCODING
from service.agents.rounds.mcp_server import McpServer
from service.agents.rounds.options import ModelOptions
from service.agents.rounds.tools import MAX_ERROR_CHARS, NAME_PATTERN, Output, checked_output

CONNECT_SECONDS = 10
MAX_PAGES = 20  # of a server's list of tools
UNFIT_NAME = (
    "The tool {1!r} of the MCP server {0} cannot be used: its name, with that of the server before it, must have at"
    " most 64 letters, digits, _ and -."
)

Options = TypeVar("Options", bound=ModelOptions)


@asynccontextmanager
async def with_servers(options: Options) -> AsyncIterator[Options]:
    """The options with the tools of their servers, as long as the connections are open. Raises Overloaded for a server
    that cannot be reached, ConnectionError for one that fails, and Rejected for two tools of one name."""
    if not options.mcp_servers:
        yield options
        return
    async with AsyncExitStack() as stack:
        tools: list[RemoteTool] = []
        for server in options.mcp_servers:
            try:
                client = await stack.enter_async_context(_client(server, stack))
                tools += await _tools_of(server, client)
            except Exception as error:
                raise _failure(server, error) from error
        try:
            toolbox = options.toolbox.extended(tools)
        except ValueError as error:
            raise Rejected(f"The tools of the MCP servers cannot be used: {error}; give a server a name.") from None
        yield msgspec.structs.replace(options, toolbox=toolbox)


class RemoteTool:
    """A tool of a server; used as service.agents.rounds.tools.Tool."""

    def __init__(self, server: McpServer, client: Any, tool: Any) -> None:
        self._server, self._client, self.remote_name = server, client, str(tool.name)
        self.name = _name_of(server, tool)
        self.definition = {
            "name": self.name,
            "description": tool.description or "",
            "input_schema": {"type": "object", "properties": {}, **tool.input_schema},
        }

    async def call(self, context: Context, given: Any) -> Output:
        if not isinstance(given, dict):
            return Output("The arguments do not fit: they must be an object.", failed=True)
        from mcp import MCPError

        try:
            result = await self._client.call_tool(self.remote_name, given)
        except MCPError as error:
            if _status_of(error) is not None:
                raise _failure(self._server, error) from error
            return Output(f"{error}"[:MAX_ERROR_CHARS], failed=True)
        except Exception as error:
            raise _failure(self._server, error) from error
        if result.is_error:
            return Output(_text_of(result)[:MAX_ERROR_CHARS], failed=True)
        has_structure = result.structured_content is not None
        return checked_output(result.structured_content if has_structure else _text_of(result))


def _client(server: McpServer, stack: AsyncExitStack) -> Any:
    import httpx2
    import mcp
    from mcp.client.streamable_http import streamable_http_client

    if server.url is None:
        parameters = mcp.StdioServerParameters(
            command=str(server.command), args=server.args, env=server.env, cwd=server.cwd, encoding=ENCODING
        )
        return mcp.Client(parameters)
    # Reading has no timeout: the attempt has one.
    http_client = httpx2.AsyncClient(
        headers={**server.headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        event_hooks={"response": [bound_answer]},
    )
    stack.push_async_callback(http_client.aclose)
    return mcp.Client(streamable_http_client(server.url, http_client=http_client))


async def _tools_of(server: McpServer, client: Any) -> list[RemoteTool]:
    found: list[RemoteTool] = []
    unfit: set[str] = set()
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        chosen = [tool for tool in page.tools if server.tools is None or tool.name in server.tools]
        found += [RemoteTool(server, client, tool) for tool in chosen if _fits(server, tool)]
        unfit.update(tool.name for tool in chosen if not _fits(server, tool))
        cursor = page.next_cursor
        if cursor is None:
            break
    else:
        raise Rejected(f"The MCP server {server.place} lists its tools on more than {MAX_PAGES} pages.")
    names = {tool.remote_name for tool in found}
    if missing := [name for name in server.tools or () if name not in names]:
        if missing[0] in unfit:
            raise Rejected(UNFIT_NAME.format(server.place, missing[0]))
        raise Rejected(f"The MCP server {server.place} has no tool {missing[0]!r}.")
    return found


def _fits(server: McpServer, tool: Any) -> bool:
    """Whether the providers accept the name of a tool."""
    return bool(NAME_PATTERN.fullmatch(_name_of(server, tool)))


def _name_of(server: McpServer, tool: Any) -> str:
    """The name by which the model calls a tool."""
    return str(tool.name) if server.name is None else f"{server.name}__{tool.name}"


def _failure(server: McpServer, error: BaseException) -> Exception:
    """The exception for a server that fails. The SDK groups the errors of its tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Rejected):
        return error
    import httpx2

    status = _status_of(error)
    said = str(error) if status is None else f"it answered {status}"
    reason = " ".join(said.split()).rstrip(".") or type(error).__name__
    text = f"The MCP server {server.place} cannot be used: {reason}."
    if status is not None:
        headers = {"retry-after": str(error.data.get(RETRY_AFTER, ""))}  # type: ignore[attr-defined]  # has a status
        return ConnectionError(text) if status == 404 else error_for_answer(status, headers, text)
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Overloaded(text)
    return ConnectionError(text)


def _status_of(error: BaseException) -> int | None:
    """The status with which the server, or a proxy before it, answered in place of the call's answer."""
    data = getattr(error, "data", None)
    status = data.get(STATUS) if isinstance(data, dict) else None
    return status if isinstance(status, int) else None


def _text_of(result: Any) -> str:
    """The texts of a result; a note in place of every other block."""
    return "\n".join(block.text if block.type == "text" else f"[{block.type}, left out]" for block in result.content)
