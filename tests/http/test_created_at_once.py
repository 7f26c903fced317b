"""Clients that create the same thing at once: each gets an answer as if one came after the other."""

import asyncio
from typing import Any

import pytest

from tests.support.api_client import Client

CLIENTS = 6
WORKER = {"agents": [{"agent": "new", "queue": "new"}]}
CREATIONS: dict[str, tuple[str, str, Any, set[int]]] = {  # and the statuses of the answers
    "topic": ("PUT", "/topics/t", {}, {200, 201}),
    "subscription": ("PUT", "/subscriptions/s", {"topics": ["t"], "agent": "echo"}, {200, 201}),
    "tenant": ("POST", "/tenants", {"tenant": "acme"}, {201, 409}),
    "webhook": ("POST", "/webhooks", {"url": "https://example.com", "events": ["message.failed"]}, {201}),
    "key": ("POST", "/keys", {"name": "k", "scopes": ["read"]}, {201}),
    "schema": ("POST", "/schema-registry/subjects/s/versions", {"schema": "{}", "schemaType": "JSON"}, {200}),
    "worker": ("POST", "/workers", WORKER, {201}),
    "thread": ("POST", "/langgraph/threads", {"thread_id": "01a2009f-2623-7067-b6fa-75d59fc54b21"}, {200, 409}),
    "item": ("PUT", "/langgraph/store/items", {"namespace": ["a"], "key": "k", "value": {}}, {204}),
}


@pytest.mark.parametrize("what", CREATIONS)
async def test_the_same_created_at_once(api: Client, what: str) -> None:
    method, path, body, statuses = CREATIONS[what]
    answers = await asyncio.gather(*(api.request(method, path, json=body) for _ in range(CLIENTS)))
    found = [answer.status_code for answer in answers]
    assert set(found) == statuses, [answer.text for answer in answers]
    if len(statuses) > 1:
        created = min(statuses) if 409 in statuses else 201
        assert found.count(created) == 1
