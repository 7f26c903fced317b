"""Tools of the client: the model calls them, the message asks the client for their outputs, and goes on with those."""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.agents.contract import Context, Rejected
from service.agents.rounds.model import Call, CallResult
from service.agents.rounds.tools import NAME_PATTERN, Toolbox

MAX_CLIENT_TOOLS = 128


class ClientTool(msgspec.Struct, frozen=True):
    """An element of `metadata.tools`. `parameters`: the JSON Schema of the input."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None

    @property
    def definition(self) -> dict[str, Any]:
        schema = {"type": "object", "properties": {}, **(self.parameters or {})}
        return {"name": self.name, "description": self.description or "", "input_schema": schema}


def read_tools(given: Any, toolbox: Toolbox) -> list[ClientTool]:
    """Raises Rejected for anything but a list of tools, and for the name of a tool that the agent has."""
    try:
        tools = msgspec.convert(given, list[ClientTool])
    except msgspec.ValidationError:
        raise Rejected("metadata.tools must be a list of objects with name, description and parameters.") from None
    taken = {definition.get("name") for definition in toolbox.definitions}
    for tool in tools:
        if tool.name in taken or not NAME_PATTERN.fullmatch(tool.name):
            raise Rejected(f"metadata.tools: {tool.name[:64]!r} is the name of another tool, or is not a name.")
        taken.add(tool.name)
    if len(tools) > MAX_CLIENT_TOOLS:
        raise Rejected(f"metadata.tools has more than {MAX_CLIENT_TOOLS} tools.")
    return tools


async def ask_client(context: Context, number: int, calls: Sequence[Call]) -> list[CallResult]:
    """The results of these calls. The message is parked until the client has answered. Raises Rejected for an answer
    that does not have an output for each call."""
    asked = [{"name": call.name, "arguments": call.input} for call in calls]
    outputs = await context.input({"function_calls": asked}, name=f"tools {number}")
    if not isinstance(outputs, list) or len(outputs) != len(calls):
        raise Rejected(f"The client must answer {len(calls)} function calls with a list of as many outputs.")
    return [CallResult(call.id, _text(output)) for call, output in zip(calls, outputs, strict=True)]


def _text(output: Any) -> str:
    return output if isinstance(output, str) else msgspec.json.encode(output).decode()
