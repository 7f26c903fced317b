"""An MCP server over its standard streams, for tests: one tool that says which variables it was started with."""

import json
import os
import sys

TOOL = {
    "name": "variable",
    "description": "Reads a variable.",
    "inputSchema": {"type": "object", "properties": {"name": {"type": "string"}}},
}

for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    answer: dict[str, object]
    match asked["method"]:
        case "initialize":
            version = asked["params"]["protocolVersion"]
            about = {"name": "test", "version": "1"}
            answer = {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}}
        case "tools/list":
            answer = {"result": {"tools": [TOOL]}}
        case "tools/call":
            value = os.environ.get(asked["params"]["arguments"]["name"])
            failed = value is None
            answer = {"result": {"content": [{"type": "text", "text": value or "There is none."}], "isError": failed}}
        case _:
            answer = {"error": {"code": -32601, "message": "unknown"}}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}), flush=True)
