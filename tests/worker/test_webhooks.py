"""Webhooks, end to end: events become signed deliveries, which the unmodified packages of receivers verify."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from standardwebhooks import Webhook

from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.hook_receiver import HookReceiver, Received, hurry
from tests.support.waiting import until
from treadle import Context, Rejected, agent

WAITS = "select extract(epoch from run_at - clock_timestamp()) from treadle.messages where hold = 'backoff'"
OURS: dict[str, Any] = {"webhook_networks": ("127.0.0.0/8",), "webhook_http": True}


@agent("broken")
async def broken(context: Context, text: str) -> str:
    raise Rejected("no answer")


@agent("asking")
async def asking(context: Context, text: str) -> str:
    return str(await context.input({"really": text}))


@agent("large")
async def large(context: Context, text: str) -> str:
    return "\u00e4\n" * 20_000


@pytest.fixture
async def receiver() -> AsyncIterator[HookReceiver]:
    async with HookReceiver().running() as receiver:
        yield receiver


@pytest.fixture
async def api(start_api: StartApi, start_worker: StartWorker) -> Client:
    await start_worker(echo, broken, asking, large, webhook_concurrency=20, **OURS)
    return await start_api(**OURS)


async def create(api: Client, url: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/webhooks", json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_an_event_is_signed_and_tried_again_until_the_endpoint_takes_it(
    api: Client, receiver: HookReceiver, sql: Connection
) -> None:
    redirect = "HTTP/1.1 302 Found\r\nLocation: /elsewhere"
    receiver.answers["/hook"] = [500, redirect, 204, "HTTP/1.1 429 Slow\r\nRetry-After: 4000"]
    made = await create(api, f"{receiver.origin}/hook", agents=["echo"])
    message_id = await api.submit("hello", agent="echo", metadata={"order": None}, thread_id="t")
    await api.submit("hello", agent="broken")  # of another agent

    for number, longest in ((1, 5.5), (2, 330)):
        await receiver.has("/hook", number)
        assert 0 < await until(lambda: sql.fetchval(WAITS)) < longest
        await hurry(sql)
    posts = await receiver.has("/hook", 3)
    assert not receiver.at("/elsewhere")
    assert len({post.headers["webhook-id"] for post in posts}) == 1
    told = [Webhook(made["secret"]).verify(post.body, post.headers) for post in posts][-1]
    assert told["type"] == "message.completed"
    assert told["data"] == told["data"] | {
        "message_id": message_id,
        "thread_id": "t",
        "agent": "echo",
        "state": "completed",
        "result": "hello",
        "error": None,
        "metadata": {"order": None},
        "address": f"/messages/{message_id}",
    }
    delivery = await api.settled(posts[0].headers["webhook-id"], "completed")
    assert delivery["result"] == {"status": 204}
    assert delivery["metadata"] == {
        "event": "message.completed",
        "message_id": message_id,
        "webhook": made["webhook_id"],
    }
    [listed] = (await api.get("/webhooks")).json()
    assert (listed["last_delivery"]["status"], listed["last_delivery"]["error"]) == (204, None)
    assert "secret" not in json.dumps(listed)
    assert await sql.fetchval("select count(*) from treadle.messages where agent = 'webhook'") == 1

    await api.submit("more", agent="echo")
    assert 3_990 < await until(lambda: sql.fetchval(WAITS)) <= 4_000


async def test_a_rotation_signs_twice_and_410_disables(api: Client, receiver: HookReceiver, sql: Connection) -> None:
    receiver.answers["/hook"] = [204, 410, 204]
    made = await create(api, f"{receiver.origin}/hook", events=["message.failed", "message.input_required"])
    path = f"/webhooks/{made['webhook_id']}"
    rotated = (await api.post(f"{path}/rotate", json={"grace_seconds": 60})).json()
    tested = (await api.post(f"{path}/test")).json()
    [first] = await receiver.has("/hook", 1)
    for secret in (made["secret"], rotated["secret"]):
        assert Webhook(secret).verify(first.body, first.headers)["type"] == "webhook.test"
    assert first.headers["webhook-id"] == tested["message_id"]
    rotated = (await api.post(f"{path}/rotate", json={"grace_seconds": 0})).json()

    asked = await api.submit("this", agent="asking")
    await receiver.has("/hook", 2)
    refused = receiver.received[1]
    assert Webhook(rotated["secret"]).verify(refused.body, refused.headers)["data"]["asks"]["question"] == {
        "really": "this"
    }
    assert len(refused.headers["webhook-signature"].split()) == 1
    failed = await api.settled(refused.headers["webhook-id"], "failed")
    assert "410" in failed["error"]
    listed = (await api.get(path)).json()
    assert (listed["enabled"], listed["disabled_reason"]) == (False, "The endpoint answered 410 Gone.")
    await api.submit("now nothing is told", agent="broken")
    assert (await api.post(f"/messages/{asked}/input", json={"input": "yes"})).status_code == 202
    await api.settled(asked, "completed")

    assert (await api.patch(path, json={"enabled": True})).json()["disabled_reason"] is None
    dead = (await api.get("/queues/webhooks/dead-letters")).json()
    assert [letter["message_id"] for letter in dead["dead_letters"]] == [failed["message_id"]], dead
    assert (await api.post(f"/messages/{failed['message_id']}/redrive")).status_code == 202
    again = (await receiver.has("/hook", 3))[2]
    assert again.headers["webhook-id"] == failed["message_id"]
    assert (await api.delete(path)).status_code == 204
    assert (await api.get(path)).json()["detail"] == f"There is no webhook {made['webhook_id']}."
    acts = await sql.fetch("select action from treadle.audit where target = $1 order by id", made["webhook_id"])
    assert [act["action"].removeprefix("webhook.") for act in acts] == (
        ["create", "rotate", "test", "rotate", "disable", "change", "delete"]
    )


async def test_callbacks_and_the_dialect_of_openai_are_verified(api: Client, receiver: HookReceiver) -> None:
    secret = (await api.get("/webhooks/callback-secret")).json()["secret"]
    made = await create(api, f"{receiver.origin}/openai", format="openai")
    for agent_name in ("large", "broken"):
        await api.submit("x", agent=agent_name, callback_url=f"{receiver.origin}/{agent_name}")
    ends: dict[str, Received] = {name: (await receiver.has(f"/{name}", 1))[0] for name in ("large", "broken")}
    told = {name: Webhook(secret).verify(post.body, post.headers) for name, post in ends.items()}
    assert {name: item["type"] for name, item in told.items()} == {
        "large": "message.completed",
        "broken": "message.failed",
    }
    assert len(ends["large"].body) < 20_000
    assert (told["large"]["data"]["result"], told["large"]["data"]["omitted"]) == (None, ["result"])
    assert (await api.get(f"{told['large']['data']['address']}/status")).json()["result"] == "\u00e4\n" * 20_000
    assert told["broken"]["data"]["error"] == "no answer"

    client = openai.OpenAI(api_key="unused", webhook_secret=made["secret"])
    events = [client.webhooks.unwrap(post.body, post.headers) for post in await receiver.has("/openai", 2)]
    ids = {event.type: event.data.id for event in events}  # type: ignore[union-attr]
    assert ids == {
        f"response.{state}": f"resp_{told[name]['data']['message_id'].replace('-', '')}"
        for name, state in (("large", "completed"), ("broken", "failed"))
    }
    await asyncio.to_thread(client.close)
    for url in ("ftp://a/b", "https://10.0.0.1/", "https://user@example.com/", "x" * 2001, ""):
        answer = await api.post("/messages", json={"message": "x", "callback_url": url})
        assert answer.status_code == 422, url
        assert answer.json()["detail"].startswith("callback_url ")
    answer = await api.post("/webhooks", json={"url": "https://169.254.169.254/latest"})
    assert answer.json()["detail"].startswith("url is refused: 169.254.169.254 is no public address")


async def test_an_endpoint_that_hangs_delays_no_other(api: Client, receiver: HookReceiver, sql: Connection) -> None:
    receiver.answers["/hangs"] = [0]
    hanging = await create(api, f"{receiver.origin}/hangs")
    fine = await create(api, f"{receiver.origin}/fine")
    batch = {"messages": [{"message": f"{number}", "agent": "echo"} for number in range(30)]}
    assert (await api.post("/messages/batch", json=batch)).status_code == 202
    await receiver.has("/fine", 30)
    assert len(receiver.at("/hangs")) == 4  # a fifth of the places
    held = "select count(*) from treadle.messages where metadata ->> 'webhook' = $1 and failures > 0"
    assert await sql.fetchval(held, hanging["webhook_id"]) == 0  # to wait for a place is no failure
    assert fine["webhook_id"] != hanging["webhook_id"]
