"""The JSON Schemas of a graph, for clients that look at assistants."""

import json
from collections.abc import Callable
from typing import Any

MAX_CHARS = 10_000  # of one schema: all agents are read with their schemas
MESSAGE = "#/$defs/AIMessage"  # LangChain's messages have a schema of 20,000 characters


def schemas_of(graph: Any) -> dict[str, Any]:
    """`graph` None: it is not known yet. A schema that cannot be made is left out."""
    if graph is None:
        return {}
    makers: dict[str, Callable[[], Any]] = {
        "input_schema": graph.get_input_jsonschema,
        "output_schema": graph.get_output_jsonschema,
        "state_schema": lambda: _state_schema(graph),
        "context_schema": graph.get_context_jsonschema,
    }
    found = {}
    for name, make in makers.items():
        try:
            schema = _used(_without_messages(make()))
            if len(json.dumps(schema)) <= MAX_CHARS:
                found[name] = schema
        except Exception:  # of whatever types the author uses
            continue
    return found


def _state_schema(graph: Any) -> Any:
    builder = getattr(graph, "builder", None)
    if builder is None:
        return None
    from pydantic import TypeAdapter

    return TypeAdapter(builder.state_schema).json_schema()


def _without_messages(schema: Any) -> Any:
    """With objects in place of LangChain's messages."""
    if isinstance(schema, list):
        return [_without_messages(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    for kind in ("oneOf", "anyOf"):
        if any(isinstance(part, dict) and part.get("$ref") == MESSAGE for part in schema.get(kind, ())):
            return {"type": "object"}
    return {name: _without_messages(part) for name, part in schema.items()}


def _used(schema: Any) -> Any:
    """Without the definitions that nothing refers to."""
    known = schema.get("$defs", {})
    used: dict[str, Any] = {}
    waiting = [{name: part for name, part in schema.items() if name != "$defs"}]
    while waiting:
        text = json.dumps(waiting.pop())
        for name in known.keys() - used.keys():
            if f'"#/$defs/{name}"' in text:
                used[name] = known[name]
                waiting.append(known[name])
    plain = {name: part for name, part in schema.items() if name != "$defs"}
    return plain | {"$defs": used} if used else plain
