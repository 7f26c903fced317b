"""Webhooks, end to end: events become signed deliveries, which the unmodified packages of receivers verify."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import openai
import pytest
from standardwebhooks import Webhook

from service.agents.builtin.echo import echo
from service.agents.contract import Deferred
from service.db.pool import Connection
from service.worker.deliveries.agent import next_delay
from service.worker.deliveries.pace import Pace
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.documents import DOCS, blocks
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.hook_receiver import HookReceiver, Received, hurry
from tests.support.node_client import play
from tests.support.waiting import LIMIT_SECONDS, let_the_loop_read, until
from treadle import Agent, Context, Rejected, agent

WAITS = """
    select extract(epoch from (e.data ->> 'retry_at')::timestamptz - e.created_at)
    from treadle.events e join treadle.messages m using (message_id)
    where m.agent = 'webhook' and e.type = 'retry'
    order by e.created_at"""
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


async def wait(sql: Connection, number: int) -> float:
    """How many seconds were to pass between the failure of this number and the next attempt."""
    waits = await until(lambda: sql.fetch(WAITS), lambda found: len(found) >= number)
    return float(waits[number - 1][0])


async def test_an_event_is_signed_and_tried_again_until_the_endpoint_takes_it(
    api: Client, receiver: HookReceiver, sql: Connection
) -> None:
    redirect = "HTTP/1.1 302 Found\r\nLocation: /elsewhere"
    receiver.answers["/hook"] = [500, redirect, 204, "HTTP/1.1 429 Slow\r\nRetry-After: 4000"]
    made = await create(api, f"{receiver.origin}/hook", agents=["echo"])
    message_id = await api.submit("hello", agent="echo", metadata={"order": None}, thread_id="t")
    await api.submit("hello", agent="broken")  # of another agent

    for number, longest in ((1, 5.5), (2, 330)):
        assert 0 < await wait(sql, number) <= longest
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
    [page] = blocks(DOCS / "webhooks.md", "python")
    names: dict[str, Any] = {}
    exec(page.text, names)
    assert names["receive"](posts[0].body, posts[0].headers, made["secret"]) == f"{message_id} is completed"
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

    async def listed_ids(**query: str) -> list[str]:
        return [each["message_id"] for each in (await api.get("/messages", params=query)).json()["messages"]]

    assert delivery["message_id"] not in await listed_ids()  # among messages, deliveries are not listed or counted
    assert await listed_ids(queue="webhooks") == await listed_ids(agent="webhook") == [delivery["message_id"]]
    await sql.execute("select treadle.fold_counters()")
    for query in ({}, {"queue": "webhooks"}):
        steps = (await api.get("/stats", params=query)).json()["steps"]
        assert sum(step["completed"] for step in steps) == 1, query

    await api.submit("more", agent="echo")
    assert 3_990 < await wait(sql, 3) <= 4_000


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
        url = f"{receiver.origin}/{agent_name}"
        message_id = await api.submit("x", agent=agent_name, callback_url=url)
        assert (await api.get(f"/messages/{message_id}")).json()["callback_url"] == url
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
    posts = [{"body": post.body.decode(), "headers": post.headers} for post in receiver.at("/openai")]
    assert await play("webhooks", secret=made["secret"], posts=posts) == {"told": list(ids), "refused": True}
    for url in ("ftp://a/b", "https://10.0.0.1/", "https://user@example.com/", "x" * 2001, ""):
        answer = await api.post("/messages", json={"message": "x", "callback_url": url})
        assert answer.status_code == 422, url
        assert answer.json()["detail"].startswith("callback_url ")
    answer = await api.post("/webhooks", json={"url": "https://169.254.169.254/latest"})
    assert answer.json()["detail"].startswith("url is refused: 169.254.169.254 is no public address")
    asked = {"assistant_id": "echo", "input": "x", "webhook": f"{receiver.origin}/run"}
    run = (await api.post("/langgraph/runs", json=asked)).json()
    [post] = await receiver.has("/run", 1)
    assert Webhook(secret).verify(post.body, post.headers)["data"]["message_id"] == run["run_id"]
    assert (await api.post("/langgraph/runs", json={**asked, "webhook": "/inside"})).status_code == 422


async def test_an_endpoint_that_hangs_delays_no_other(api: Client, receiver: HookReceiver, sql: Connection) -> None:
    receiver.answers["/hangs"] = [0]
    hanging = await create(api, f"{receiver.origin}/hangs")
    await create(api, f"{receiver.origin}/fine")
    batch = {"messages": [{"message": f"{number}", "agent": "echo"} for number in range(30)]}
    assert (await api.post("/messages/batch", json=batch)).status_code == 202
    await receiver.has("/fine", 30)
    assert len(await receiver.has("/hangs", 4)) == 4  # a fifth of the places
    put_off = "select count(*) from treadle.messages where metadata ->> 'webhook' = $1 and failures > 0"
    assert await sql.fetchval(put_off, hanging["webhook_id"]) == 0  # to find no place is no failure


async def test_deliveries_of_a_tenant_are_its_own_and_count_for_no_limit(
    start_api: StartApi, start_worker: StartWorker, receiver: HookReceiver, sql: Connection
) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    await sql.execute("""select treadle.limit_tenant('acme', '{"queued": 1, "running": 1}')""")
    await start_worker(echo, webhook_concurrency=20, **OURS)
    api = await start_api(**OURS, **CLOSED)
    acme = bearer((await create_key(api, "submit", "read", "admin", "operate", tenant="acme"))["key"])
    receiver.answers["/acme"] = [500]
    hook = {"url": f"{receiver.origin}/acme"}
    made = (await api.post("/webhooks", json=hook, headers=acme)).json()
    assert (await api.post("/webhooks", json=hook, headers=bearer(ROOT_KEY))).status_code == 201
    ids = []
    for number in range(3):
        answer = await api.post("/messages?wait=60", json={"message": f"{number}"}, headers=acme)
        assert answer.json()["state"] == "completed", answer.text
        ids.append(answer.json()["message_id"])
    # One comes again after it was answered with 500. None is of the other tenant.
    await until(
        lambda: {json.loads(post.body)["data"]["message_id"] for post in receiver.at("/acme")},
        lambda told: told == set(ids),
    )
    assert (await api.get("/tenant", headers=acme)).json()["queued"] == 0
    assert (await api.get(f"/webhooks/{made['webhook_id']}", headers=bearer(ROOT_KEY))).status_code == 404
    assert len((await api.get("/webhooks", headers=acme)).json()) == 1
    forged = await api.post("/messages", json={"message": "x", "agent": "webhook"}, headers=acme)
    assert forged.json()["detail"] == "There is no agent 'webhook'."
    with pytest.raises(ValueError, match="deliveries only"):
        Agent("thief", broken.function, queue="webhooks")
    with pytest.raises(asyncpg.PostgresError, match="deliveries only"):
        await sql.execute("""select treadle.register_agents('[{"agent": "thief", "queue": "webhooks"}]')""")
    assert await sql.fetchval("select count(*) from treadle._violations()") == 0


async def test_an_address_that_fails_is_paused_and_then_tried_by_one() -> None:
    now = [1000.0]
    pace = Pace(10, clock=lambda: now[0])
    for _ in range(4):
        pace.note_failure("a", None)
    assert pace.pause_left("a") is None
    for _ in range(6):  # the first one begins the pause; the others ran at that moment
        pace.note_failure("a", None)
    assert 5.0 <= (pace.pause_left("a") or 0) <= 10.0
    assert pace.pause_left("b") is None
    now[0] += 10.0
    assert pace.pause_left("a") is None
    async with pace.place("t", "a", attempt=1):
        assert pace.pause_left("a") == 1.0  # one tries
        async with pace.place("t", "a", attempt=1):  # a person asks for it
            pass
        assert pace.pause_left("a") == 1.0
        pace.note_failure("a", None)
    assert 10.0 <= (pace.pause_left("a") or 0) <= 20.0
    now[0] += 20.0
    assert pace.pause_left("a") is None
    pace.note_success("a")
    assert pace.pause_left("a") is None
    for pause in (300.0, 600.0, 300.0, None, 10.0, 10.0):  # the first ones ask for a pause; all ran at that moment
        pace.note_failure("a", pause)
    assert pace.pause_left("a") == 600.0
    now[0] += 600.0
    pace.note_failure("a", None)  # the second one in a row
    assert pace.pause_left("a") is None
    assert 4.5 <= next_delay(0) <= 5.5
    assert all(0.9 * 86_400 <= next_delay(failures) <= 1.1 * 86_400 for failures in (8, 9))


async def test_few_wait_for_an_address_whose_places_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that waits has a place of the worker."""
    monkeypatch.setattr("service.worker.deliveries.pace.WAIT_SECONDS", 2 * LIMIT_SECONDS)
    pace = Pace(10)
    release = asyncio.Event()

    async def deliver() -> None:
        async with pace.place("t", "a", attempt=1):
            await release.wait()

    deliveries = [asyncio.create_task(deliver()) for _ in range(4)]  # two run, two wait
    await let_the_loop_read()
    with pytest.raises(Deferred):
        await asyncio.wait_for(deliver(), LIMIT_SECONDS)
    async with pace.place("t", "b", attempt=1):
        release.set()
    await asyncio.gather(*deliveries)
