"""A call that waits ends with its access: a revoked key receives nothing that comes after."""

import asyncio

from tests.support.access import ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.waiting import until

WAIT = "wait=30"


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
