"""The OpenAPI description of the API."""

from typing import Any

from tests.support.api_answers import OVERVIEW_FIELDS, QUEUE_FIELDS, get
from tests.support.api_client import Client

TABLE = {
    ("post", "/messages"): "Accepted",
    ("post", "/messages/batch"): "AcceptedBatch",
    ("get", "/messages/{message_id}/status"): "Status",
    ("get", "/messages/{message_id}/stream"): None,
    ("get", "/messages/{message_id}/events"): "EventPage",
    ("delete", "/messages/{message_id}"): "Cancelled",
    ("post", "/messages/{message_id}/input"): "Answered",
    ("post", "/messages/{message_id}/redrive"): "Redriven",
    ("get", "/queue"): "Overview",
    ("get", "/queues"): ["Queue"],
    ("get", "/queues/{name}"): "Queue",
    ("post", "/queues/{name}/pause"): "Queue",
    ("post", "/queues/{name}/resume"): "Queue",
    ("get", "/queues/{name}/dead-letters"): "DeadLetters",
    ("get", "/threads"): ["ThreadSummary"],
    ("get", "/threads/{thread_id}"): "Thread",
    ("get", "/threads/{thread_id}/usage"): "Usage",
    ("get", "/threads/{thread_id}/messages"): "ThreadMessages",
    ("get", "/threads/{thread_id}/stream"): None,
    ("delete", "/threads/{thread_id}"): None,
    ("get", "/agents"): ["Agent"],
    ("delete", "/instances/{agent}/{thread_id}"): None,
    ("get", "/workers"): ["Worker"],
    ("get", "/health"): "Health",
    ("get", "/health/live"): None,
    ("get", "/health/ready"): "Health",
}


def references(value: Any) -> set[str]:
    """Every $ref in a part of the description."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in value.values()))
    return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()


async def test_openapi_describes_every_route(api: Client) -> None:
    schema = await get(api, "/openapi.json")
    assert schema["openapi"].startswith("3.")
    described = {(method, path) for path, item in schema["paths"].items() for method in item}
    assert described == TABLE.keys()
    schemas = schema["components"]["schemas"]
    assert references(schema) <= {f"#/components/schemas/{name}" for name in schemas}
    operations = {}
    for (method, path), model in TABLE.items():
        operation = schema["paths"][path][method]
        operations[method, path] = operation
        assert len(operation["summary"]) > 10
        success = next(status for status in operation["responses"] if status.startswith("2"))
        content = operation["responses"][success].get("content", {})
        if isinstance(model, str):
            assert content["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model}"}
        elif model is not None:
            found = content["application/json"]["schema"]
            assert (found["type"], found["items"]) == ("array", {"$ref": f"#/components/schemas/{model[0]}"})
        elif path.endswith("/stream"):
            assert content.keys() == {"text/event-stream"}
        refusal = operation["responses"]["default"]["content"]
        assert refusal == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        assert "400" not in operation["responses"]
    assert len({operation["operationId"] for operation in operations.values()}) == len(TABLE)
    assert operations["delete", "/messages/{message_id}"]["responses"].keys() == {"200", "202", "default"}
    assert "204" in operations["get", "/messages/{message_id}/stream"]["responses"]
    for path, model in (("/messages", "NewMessage"), ("/messages/batch", "NewBatch")):
        body = operations["post", path]["requestBody"]
        assert (body["required"], body["content"].keys()) == (True, {"application/json"})
        assert body["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{model}"}
        names = [parameter["name"] for parameter in operations["post", path]["parameters"]]
        assert names == ["Idempotency-Key"]


async def test_openapi_describes_the_fields_of_requests_and_responses(api: Client) -> None:
    schemas = (await get(api, "/openapi.json"))["components"]["schemas"]
    message = schemas["NewMessage"]
    assert message["required"] == ["message"]
    assert message["properties"].keys() == {
        *("message", "priority", "thread_id", "agent", "metadata", "delay_seconds", "max_attempts", "timeout_seconds"),
        "aside",
    }
    assert all(field.get("description") for field in message["properties"].values())
    assert message["properties"]["priority"]["enum"] == ["high", "normal", "low"]
    status = await api.status(await api.submit("x"))
    assert schemas["Status"]["properties"].keys() == status.keys()
    assert schemas["Overview"]["properties"].keys() == OVERVIEW_FIELDS
    assert schemas["Queue"]["properties"].keys() == QUEUE_FIELDS
    problem = (await api.get("/threads/unknown")).json()
    assert schemas["Problem"]["properties"].keys() == problem.keys()
