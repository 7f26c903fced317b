"""The OpenAPI description of the API."""

from typing import Any

import msgspec

from service.access.model import NewKey, NewToken, Rotation
from service.inspection.model import Selection
from service.messages.model import MessageChanges, NewBatch, NewInput, NewMessage
from service.protocols.leases.model import (
    NewClaim,
    NewEnding,
    NewEvents,
    NewHeartbeat,
    NewWorker,
)
from service.protocols.leases.model_sends import NewHistory, NewPublication, NewSend, NewWait
from service.subscriptions.model import NewPosition, NewSubscription
from service.tenants.model import NewTenant
from service.threads.model import ThreadChanges
from service.topics.model import NewRecords, NewTopic
from service.webhooks.model import NewWebhook, SecretRotation, WebhookChanges
from tests.support.api_answers import OVERVIEW_FIELDS, QUEUE_FIELDS, get
from tests.support.api_client import Client

OPERATIONS = {
    ("post", "/messages"): ("submitMessage", "200 202 400 409 413 415 422 429 503"),
    ("post", "/messages/batch"): ("submitMessages", "202 400 409 413 415 422 429 503"),
    ("get", "/messages/{message_id}/status"): ("getMessage", "200 400 404 422 503"),
    ("get", "/messages/{message_id}/explain"): ("explainMessage", "200 400 404 422 503"),
    ("get", "/messages/{message_id}/stream"): ("streamMessage", "200 204 400 404 422"),
    ("get", "/messages/{message_id}/events"): ("listEvents", "200 400 404 422 503"),
    ("get", "/messages"): ("listMessages", "200 400 422 503"),
    ("get", "/messages/{message_id}"): ("inspectMessage", "200 400 404 422 503"),
    ("patch", "/messages/{message_id}"): ("changeMessage", "200 400 404 409 413 415 422 429 503"),
    ("post", "/messages/cancel"): ("cancelMessages", "200 400 413 415 422 503"),
    ("post", "/messages/redrive"): ("redriveMessages", "200 400 413 415 422 503"),
    ("delete", "/messages/{message_id}"): ("cancelMessage", "200 202 400 404 409 422 503"),
    ("post", "/messages/{message_id}/input"): ("answerMessage", "202 400 404 409 413 415 422 429 503"),
    ("post", "/messages/{message_id}/redrive"): ("redriveMessage", "202 400 404 409 422 503"),
    ("post", "/messages/{message_id}/retry"): ("retryMessage", "202 400 404 409 413 415 422 503"),
    ("get", "/queue"): ("getOverview", "200 422 503"),
    ("get", "/queues"): ("listQueues", "200 400 422 503"),
    ("get", "/queues/{name}"): ("getQueue", "200 400 404 422 503"),
    ("post", "/queues/{name}/pause"): ("pauseQueue", "200 400 404 422 503"),
    ("post", "/queues/{name}/resume"): ("resumeQueue", "200 400 404 422 503"),
    ("get", "/queues/{name}/dead-letters"): ("listDeadLetters", "200 400 404 422 503"),
    ("get", "/threads"): ("listThreads", "200 400 422 503"),
    ("get", "/threads/{thread_id}"): ("getThread", "200 400 404 422 503"),
    ("get", "/threads/{thread_id}/usage"): ("getThreadUsage", "200 400 404 422 503"),
    ("get", "/threads/{thread_id}/messages"): ("listThreadMessages", "200 400 404 422 503"),
    ("get", "/threads/{thread_id}/stream"): ("streamThread", "200 400 404 422"),
    ("patch", "/threads/{thread_id}"): ("changeThread", "200 400 404 409 413 415 422 429 503"),
    ("delete", "/threads/{thread_id}"): ("deleteThread", "204 400 404 409 422 503"),
    ("put", "/topics/{topic}"): ("declareTopic", "200 201 400 409 413 415 422 503"),
    ("get", "/topics"): ("listTopics", "200 400 422 503"),
    ("get", "/topics/{topic}"): ("getTopic", "200 400 404 422 503"),
    ("delete", "/topics/{topic}"): ("deleteTopic", "204 400 404 422 503"),
    ("post", "/topics/{topic}/records"): ("publishRecords", "202 400 404 409 413 415 422 429 503"),
    ("get", "/topics/{topic}/records"): ("listRecords", "200 400 404 422 503"),
    ("get", "/topics/{topic}/stream"): ("streamTopic", "200 400 404 422"),
    ("get", "/records/{record_id}"): ("getRecord", "200 400 404 422 503"),
    ("put", "/subscriptions/{name}"): ("declareSubscription", "200 201 400 409 413 415 422 503"),
    ("get", "/subscriptions"): ("listSubscriptions", "200 400 422 503"),
    ("get", "/subscriptions/{name}"): ("getSubscription", "200 400 404 422 503"),
    ("post", "/subscriptions/{name}/pause"): ("pauseSubscription", "200 400 404 422 503"),
    ("post", "/subscriptions/{name}/resume"): ("resumeSubscription", "200 400 404 422 503"),
    ("post", "/subscriptions/{name}/seek"): ("seekSubscription", "200 400 404 413 415 422 503"),
    ("delete", "/subscriptions/{name}"): ("deleteSubscription", "204 400 404 422 503"),
    ("get", "/stats"): ("getStatistics", "200 400 422 503"),
    ("get", "/changes"): ("streamChanges", "200 422"),
    ("get", "/agents"): ("listAgents", "200 400 422 503"),
    ("get", "/instances"): ("listInstances", "200 400 422 503"),
    ("delete", "/instances/{agent}/{thread_id}"): ("dropInstance", "202 400 404 422 503"),
    ("get", "/workers"): ("listWorkers", "200 400 422 503"),
    ("post", "/workers"): ("registerWorker", "201 400 409 413 415 422 503"),
    ("post", "/workers/{worker_id}/claim"): ("claimMessages", "200 400 404 413 415 422 503"),
    ("post", "/workers/{worker_id}/append"): ("appendEvents", "200 400 404 409 413 415 422 429 503"),
    ("post", "/workers/{worker_id}/finish"): ("finishMessage", "200 400 404 409 413 415 422 429 503"),
    ("post", "/workers/{worker_id}/send"): ("placeMessage", "200 400 409 413 415 422 503"),
    ("post", "/workers/{worker_id}/publish"): ("placeRecord", "200 400 409 413 415 422 503"),
    ("post", "/workers/{worker_id}/history"): ("readHistory", "200 400 409 413 415 422 503"),
    ("post", "/workers/{worker_id}/children"): ("readChildren", "200 400 409 413 415 422 503"),
    ("post", "/workers/{worker_id}/heartbeat"): ("sendHeartbeat", "200 400 404 413 415 422 503"),
    ("delete", "/workers/{worker_id}"): ("deregisterWorker", "204 400 422 503"),
    ("post", "/keys"): ("createKey", "201 400 404 409 413 415 422 503"),
    ("get", "/keys"): ("listKeys", "200 400 422 503"),
    ("delete", "/keys/{key_id}"): ("revokeKey", "200 400 404 409 422 503"),
    ("post", "/keys/{key_id}/rotate"): ("rotateKey", "200 400 404 409 413 415 422 503"),
    ("post", "/webhooks"): ("createWebhook", "201 400 409 413 415 422 503"),
    ("get", "/webhooks"): ("listWebhooks", "200 422 503"),
    ("get", "/webhooks/callback-secret"): ("getCallbackSecret", "200 422 503"),
    ("post", "/webhooks/callback-secret/rotate"): ("rotateCallbackSecret", "200 400 413 415 422 503"),
    ("get", "/webhooks/{webhook_id}"): ("getWebhook", "200 400 404 422 503"),
    ("patch", "/webhooks/{webhook_id}"): ("changeWebhook", "200 400 404 409 413 415 422 503"),
    ("delete", "/webhooks/{webhook_id}"): ("deleteWebhook", "204 400 404 409 422 503"),
    ("post", "/webhooks/{webhook_id}/rotate"): ("rotateWebhook", "200 400 404 409 413 415 422 503"),
    ("post", "/webhooks/{webhook_id}/test"): ("testWebhook", "202 400 404 409 422 503"),
    ("get", "/audit"): ("listAudit", "200 400 403 422 503"),
    ("get", "/tenant"): ("getTenantLimits", "200 422 503"),
    ("get", "/tenants"): ("listTenants", "200 400 422 503"),
    ("post", "/tenants"): ("createTenant", "201 400 409 413 415 422 503"),
    ("post", "/tenants/{tenant}/suspend"): ("suspendTenant", "200 400 404 422 503"),
    ("post", "/tenants/{tenant}/resume"): ("resumeTenant", "200 400 404 422 503"),
    ("delete", "/tenants/{tenant}"): ("deleteTenant", "202 400 404 409 422 503"),
    ("post", "/tokens"): ("createToken", "201 400 413 415 422 503"),
    ("get", "/"): ("getStart", "200 422 503"),
    ("get", "/health"): ("getHealth", "200 422 503"),
    ("get", "/health/live"): ("getLiveness", "200 422"),
    ("get", "/health/ready"): ("getReadiness", "200 422 503"),
    ("get", "/metrics"): ("getMetrics", "200 422 503"),
}
MODELS = {
    "submitMessage": "Accepted",
    "submitMessages": "AcceptedBatch",
    "getMessage": "Status",
    "getStatistics": "Statistics",
    "listMessages": "MessagePage",
    "inspectMessage": "Message",
    "changeMessage": "Status",
    "cancelMessages": "Changes",
    "redriveMessages": "Changes",
    "changeThread": "Thread",
    "listEvents": "EventPage",
    "explainMessage": "Explanation",
    "cancelMessage": "Cancelled",
    "answerMessage": "Answered",
    "redriveMessage": "Redriven",
    "retryMessage": "Redriven",
    "getOverview": "Overview",
    "getTenantLimits": "TenantLimits",
    "listQueues": ["Queue"],
    "getQueue": "Queue",
    "pauseQueue": "Queue",
    "resumeQueue": "Queue",
    "listDeadLetters": "DeadLetters",
    "listThreads": ["ThreadSummary"],
    "getThread": "Thread",
    "getThreadUsage": "Usage",
    "listThreadMessages": "ThreadMessages",
    "declareTopic": "Topic",
    "listTopics": ["Topic"],
    "getTopic": "Topic",
    "publishRecords": "DeliveryReport",
    "listRecords": "RecordPage",
    "getRecord": "RecordPlace",
    "declareSubscription": "Subscription",
    "listSubscriptions": ["Subscription"],
    "getSubscription": "Subscription",
    "pauseSubscription": "Subscription",
    "resumeSubscription": "Subscription",
    "seekSubscription": "Subscription",
    "listAgents": ["Agent"],
    "dropInstance": "DroppedInstance",
    "listWorkers": ["Worker"],
    "listInstances": ["Instance"],
    "registerWorker": "RegisteredWorker",
    "claimMessages": "ClaimedMessages",
    "appendEvents": "AppendedEvents",
    "finishMessage": "EndedAttempt",
    "placeMessage": "PlacedMessage",
    "placeRecord": "PlacedRecord",
    "readHistory": "PastExchanges",
    "readChildren": "WaitedMessages",
    "sendHeartbeat": "Verdicts",
    "createKey": "CreatedKey",
    "listKeys": ["Key"],
    "revokeKey": "Revoked",
    "rotateKey": "CreatedKey",
    "createWebhook": "CreatedWebhook",
    "listWebhooks": ["Webhook"],
    "getCallbackSecret": "Secret",
    "rotateCallbackSecret": "Secret",
    "getWebhook": "Webhook",
    "changeWebhook": "Webhook",
    "rotateWebhook": "Secret",
    "testWebhook": "Delivery",
    "createToken": "CreatedToken",
    "listAudit": "AuditPage",
    "listTenants": ["Tenant"],
    "createTenant": "Tenant",
    "suspendTenant": "Tenant",
    "resumeTenant": "Tenant",
    "deleteTenant": "Tenant",
    "getStart": "Start",
    "getHealth": "Health",
    "getLiveness": "Liveness",
    "getReadiness": "Health",
}
REQUESTS = {
    "NewMessage": NewMessage,
    "NewBatch": NewBatch,
    "MessageChanges": MessageChanges,
    "Selection": Selection,
    "ThreadChanges": ThreadChanges,
    "NewInput": NewInput,
    "NewKey": NewKey,
    "Rotation": Rotation,
    "NewWebhook": NewWebhook,
    "WebhookChanges": WebhookChanges,
    "SecretRotation": SecretRotation,
    "NewToken": NewToken,
    "NewTenant": NewTenant,
    "NewTopic": NewTopic,
    "NewRecords": NewRecords,
    "NewSubscription": NewSubscription,
    "NewPosition": NewPosition,
    "NewWorker": NewWorker,
    "NewClaim": NewClaim,
    "NewEvents": NewEvents,
    "NewEnding": NewEnding,
    "NewHeartbeat": NewHeartbeat,
    "NewSend": NewSend,
    "NewPublication": NewPublication,
    "NewHistory": NewHistory,
    "NewWait": NewWait,
}

PARTS_OF_REQUESTS = {"NewRecord", "Filter", "RemoteAgent", "NewEvent", "HeldLease"} | {
    *("SentMessage", "SentRecord", "AskedQuestion"),
}


OPEN_PATHS = {"/", "/health", "/health/live", "/health/ready"}


def with_refusals(statuses: str) -> str:
    """Every operation that is not open is refused without a key or token, or for want of a scope."""
    return " ".join(sorted({*statuses.split(), "401", "403"}))


def references(value: Any) -> set[str]:
    """Every $ref in a part of the description."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(inner) for inner in value.values()))
    return set().union(*(references(inner) for inner in value)) if isinstance(value, list) else set()


def keywords(value: Any, name: str) -> list[Any]:
    """The values of a keyword, wherever it stands in a part of the description."""
    if isinstance(value, dict):
        own = [value[name]] if name in value else []
        return own + [found for inner in value.values() for found in keywords(inner, name)]
    return [found for inner in value for found in keywords(inner, name)] if isinstance(value, list) else []


async def test_openapi_describes_every_route_and_every_answer(api: Client) -> None:
    schema = await get(api, "/openapi.json")
    assert schema["openapi"].startswith("3.")
    found = {
        (method, path): (operation["operationId"], " ".join(sorted(operation["responses"].keys() - {"default"})))
        for path, item in schema["paths"].items()
        for method, operation in item.items()
    }
    assert found == {
        (method, path): (name, statuses if path in OPEN_PATHS else with_refusals(statuses))
        for (method, path), (name, statuses) in OPERATIONS.items()
    }
    schemas = schema["components"]["schemas"]
    assert references(schema) <= {f"#/components/schemas/{name}" for name in schemas}
    tags = {tag["name"]: tag["description"] for tag in schema["tags"]}
    for method, path in OPERATIONS:
        operation = schema["paths"][path][method]
        assert len(operation["summary"]) > 10
        assert operation["tags"][0] in tags
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            if status == "default" or (status >= "400" and not path.startswith("/health")):
                assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
                assert response["description"].endswith(".")
            elif status == "200" and operation["operationId"] == "submitMessage":  # asked with `wait`
                assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Status"}
            elif status < "300" and (model := MODELS.get(operation["operationId"])) is not None:
                answer = content["application/json"]["schema"]
                item = answer["items"] if isinstance(model, list) else answer
                assert item == {"$ref": f"#/components/schemas/{model[0] if isinstance(model, list) else model}"}
            elif status == "200":
                assert content.keys() == {"text/plain" if path == "/metrics" else "text/event-stream"}
    assert all(tags.values())


async def test_openapi_describes_parameters_as_they_are_checked(api: Client) -> None:
    paths = (await get(api, "/openapi.json"))["paths"]
    declared: dict[str, dict[str, Any]] = {}
    for item in paths.values():
        for operation in item.values():
            for parameter in operation.get("parameters", []):
                declared[parameter["name"]] = parameter["schema"]
                assert parameter["required"] == (parameter["in"] == "path")
                assert not {"oneOf", "anyOf"} & parameter["schema"].keys()
    assert declared.keys() == {
        "worker_id",
        *("message_id", "thread_id", "name", "agent", "limit", "cursor", "after", "Last-Event-ID", "Idempotency-Key"),
        *("key_id", "webhook_id", "tenant", "since", "topic", "record_id", "offset", "from", "wait", "key"),
        *("state", "queue", "parent", "until", "error", "q", "to", "step", "by", "whole", "Prefer", "session_id"),
    }
    assert declared["message_id"]["format"] == "uuid"
    assert (declared["Idempotency-Key"]["minLength"], declared["Idempotency-Key"]["maxLength"]) == (1, 255)
    assert declared["limit"] == {"type": "integer", "format": "int32", "minimum": 1, "maximum": 1000, "default": 100}
    for path in ("/messages/{message_id}/stream", "/threads/{thread_id}/stream"):
        assert [parameter["name"] for parameter in paths[path]["get"]["parameters"]][1:] == ["after", "Last-Event-ID"]


async def test_openapi_describes_the_fields_of_requests_and_responses(api: Client) -> None:
    schemas = (await get(api, "/openapi.json"))["components"]["schemas"]
    message = schemas["NewMessage"]
    assert message["required"] == ["message"]
    assert message["properties"].keys() == set(NewMessage.__struct_fields__)
    assert all(field.get("description") for field in message["properties"].values())
    assert sorted(message["properties"]["priority"]["enum"]) == ["high", "low", "normal"]
    text, null = message["properties"]["thread_id"]["anyOf"]
    assert (text["minLength"], text["maxLength"], null) == (1, 255, {"type": "null"})
    assert message["properties"]["max_attempts"]["anyOf"][0]["maximum"] == 1000
    for name, schema in schemas.items():
        assert not keywords(schema, "default"), name
        if name not in REQUESTS.keys() | PARTS_OF_REQUESTS:
            assert schema["required"] == list(schema["properties"]), name
        times = [field for key, field in schema["properties"].items() if key.endswith("_at")]
        assert all("date-time" in keywords(field, "format") for field in times), name
    assert schemas["Usage"]["properties"]["usage"]["additionalProperties"] == {"type": "number", "format": "double"}
    status = await api.status(await api.submit("x"))
    assert schemas["Status"]["properties"].keys() == status.keys()
    assert schemas["Overview"]["properties"].keys() == OVERVIEW_FIELDS
    assert schemas["Queue"]["properties"].keys() == QUEUE_FIELDS
    problem = (await api.get("/threads/unknown")).json()
    assert schemas["Problem"]["properties"].keys() == problem.keys()


async def test_openapi_shows_examples_that_fit(api: Client) -> None:
    schemas = (await get(api, "/openapi.json"))["components"]["schemas"]
    shown = {name: schema["examples"] for name, schema in schemas.items() if "examples" in schema}
    assert shown.keys() >= {*REQUESTS, "Accepted", "Status", "Problem"}
    for name, [example] in shown.items():
        assert example.keys() <= schemas[name]["properties"].keys(), name
        assert example.keys() >= set(schemas[name]["required"]), name
        if name in REQUESTS:
            msgspec.convert(example, REQUESTS[name])
