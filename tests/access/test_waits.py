"""A call that waits ends with its access: a revoked key receives nothing that comes after."""

import asyncio

from tests.support.access import ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.waiting import until

WAIT = "wait=30"
STREAM = "application/json, text/event-stream"


async def test_a_call_that_waits_ends_with_its_key(closed_api: Client) -> None:
    key = await create_key(closed_api, "read", "submit", "work")
    root, headers = bearer(ROOT_KEY), bearer(key["key"])
    message = {"message": "x", "delay_seconds": 600}
    path = (await closed_api.post("/messages", json=message, headers=root)).headers["location"]
    await closed_api.put("/topics/news", json={}, headers=root)
    made = await closed_api.post("/workers", json={"agents": [{"agent": "far", "queue": "far"}]}, headers=headers)
    worker = f"/workers/{made.json()['worker_id']}"
    asked = [
        asyncio.create_task(closed_api.request(method, address, json=body, headers=headers))
        for method, address, body in (
            ("GET", f"{path}?{WAIT}", None),
            ("GET", f"{path.removesuffix('/status')}?{WAIT}", None),
            ("GET", f"/topics/news/records?offset=latest&{WAIT}", None),
            ("POST", f"{worker}/claim", {"wait": 30}),
            ("POST", f"/messages?{WAIT}", message),
        )
    ]

    async def waits_everywhere() -> bool:
        found = (await closed_api.get("/messages", headers=root)).json()["messages"]
        return len(found) == 2  # the last call has submitted its message

    await until(waits_everywhere)
    assert not any(call.done() for call in asked)
    await closed_api.delete(f"/keys/{key['key_id']}", headers=root)
    *refused, accepted = await asyncio.gather(*asked)
    assert [(answer.status_code, answer.json()["detail"]) for answer in refused] == [(401, "The key is revoked.")] * 4
    assert (accepted.status_code, accepted.json()["state"]) == (202, "queued")  # as before it was asked to wait


async def test_an_open_answer_of_each_dialect_ends_with_what_ended_it(closed_api: Client) -> None:
    """Not with a broken connection, nor with the advice to come back: the client would try again with the same key."""
    key = await create_key(closed_api, "read", "submit")
    headers = bearer(key["key"]) | {"A2A-Version": "1.0"}
    said = {"role": "user", "content": "x"}
    run = {"assistant_id": "echo", "input": {"messages": [said]}}
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"message": "x"}},
    }
    task = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "x"}]}}
    front = {"threadId": "t", "runId": "r", "messages": [{"id": "1", **said}], "tools": [], "context": [], "state": {}}
    doors = (
        ("/langgraph/runs/wait", run),
        ("/langgraph/runs/stream", run),
        ("/mcp", call),
        ("/v1/responses", {"model": "echo", "input": "x", "stream": True}),
        ("/v1/chat/completions", {"model": "echo", "messages": [said], "stream": True}),
        ("/a2a/echo/message:stream", task),
        ("/agui/echo", {**front, "forwardedProps": {}}),
    )
    asked = [
        asyncio.create_task(
            closed_api.post(path, json=body, headers=headers | ({"Accept": STREAM} if path == "/mcp" else {}))
        )
        for path, body in doors
    ]

    async def are_submitted() -> bool:
        found = (await closed_api.get("/messages", headers=bearer(ROOT_KEY))).json()["messages"]
        return len(found) == len(doors)

    await until(are_submitted)
    await closed_api.delete(f"/keys/{key['key_id']}", headers=bearer(ROOT_KEY))
    for (path, _), answer in zip(doors, await asyncio.gather(*asked), strict=True):
        assert (answer.status_code, "The key is revoked." in answer.text) == (200, True), (path, answer.text)
