"""What a key with agents and a token with a subject see and do, over HTTP and on sockets."""

from typing import Any

import pytest
from uuid_utils.compat import uuid7

from service.events.model import OUT_OF_REACH
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key, create_token
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.sse_reader import open_stream
from tests.support.websocket_client import chat_url, open_socket
from treadle import Context, agent


@agent("poet")
async def poet(context: Context, text: str) -> None: ...


@agent("echo")
async def echo(context: Context, text: str) -> None: ...


@pytest.fixture
async def api(start_api: StartApi, register_agents: RegisterAgents) -> Client:
    await register_agents(echo, poet)
    return await start_api(**CLOSED)


async def submit(api: Client, key: str, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/messages", json={"message": "x", **fields}, headers=bearer(key))
    return {"status_code": answer.status_code, **answer.json()}


async def test_a_subject_sees_and_changes_only_its_own(api: Client) -> None:
    ann, bob = [await create_token(api, ROOT_KEY, "submit", "read", "operate", subject=name) for name in ("ann", "bob")]
    mine = await submit(api, ann, thread_id="t", agent="echo")
    alone = await submit(api, ann, agent="echo")
    for message in (mine, alone):
        for method, path in (
            ("GET", f"/messages/{message['message_id']}/status"),
            ("GET", f"/messages/{message['message_id']}/events"),
            ("GET", f"/messages/{message['message_id']}/stream"),
            ("DELETE", f"/messages/{message['message_id']}"),
        ):
            answer = await api.request(method, path, headers=bearer(bob))
            assert (answer.status_code, answer.json()["detail"]) == (
                404,
                f"There is no message {message['message_id']}.",
            ), path
    for path in ("/threads/t", "/threads/t/messages", "/threads/t/usage", "/threads/t/stream"):
        answer = await api.get(path, headers=bearer(bob))
        assert (answer.status_code, answer.json()["detail"]) == (404, "There is no thread 't'."), path
    assert (await api.get("/threads", headers=bearer(bob))).json() == []
    assert (await submit(api, bob, thread_id="t", agent="echo"))["status_code"] == 404
    assert [thread["thread_id"] for thread in (await api.get("/threads", headers=bearer(ann))).json()] == ["t"]
    status = await api.get(f"/messages/{mine['message_id']}/status", headers=bearer(ann))
    assert status.json()["state"] == "queued"


async def test_a_key_with_agents_addresses_only_these(api: Client) -> None:
    key = (await create_key(api, "submit", "read", agents=["echo"]))["key"]
    assert (await submit(api, key, agent="echo"))["status_code"] == 202
    refused, unknown = [await submit(api, key, agent=name) for name in ("poet", "unknown")]
    assert refused["status_code"] == unknown["status_code"]
    assert refused["detail"].replace("poet", "unknown") == unknown["detail"]
    other = await submit(api, ROOT_KEY, agent="poet")
    answer = await api.get(f"/messages/{other['message_id']}/status", headers=bearer(key))
    assert answer.status_code == 404


async def test_a_thread_leaves_the_reach_of_a_key_with_another_agent(api: Client) -> None:
    """Its open streams and sockets end before the first event of the message."""
    key = (await create_key(api, "submit", "read", agents=["echo"]))["key"]
    first = await submit(api, key, agent="echo", thread_id="t")
    async with open_socket(chat_url(api, "t"), additional_headers=bearer(key)) as chat:
        api.headers.update(bearer(key))
        async with open_stream(api, "/threads/t/stream") as stream:
            assert (await stream.event()).data["message_id"] == first["message_id"]
            await chat.until(event="queued")
            await submit(api, ROOT_KEY, agent="poet", thread_id="t")
            last = await stream.event()
            assert last.type == "unauthorized"
            assert last.data == {"message": OUT_OF_REACH}
            with pytest.raises(StopAsyncIteration):
                await stream.next()
            frames, code = await chat.rest()
            assert ([frame["type"] for frame in frames], code) == (["error"], 1008)
    assert (await api.get("/threads/t")).status_code == 404
    assert (await api.get(f"/messages/{first['message_id']}/status")).status_code == 200


async def test_a_token_for_a_message_shows_that_message(api: Client) -> None:
    one, two = [(await submit(api, ROOT_KEY, agent="echo", thread_id="t"))["message_id"] for _ in range(2)]
    token = await create_token(api, ROOT_KEY, "read", message_id=one)
    found = [(await api.get(f"/messages/{name}/status", headers=bearer(token))).status_code for name in (one, two)]
    assert found == [200, 404]
    async with open_stream(api, f"/messages/{one}/stream?token={token}") as stream:
        assert (await stream.event()).type == "queued"


async def test_a_restricted_caller_sees_no_figures_that_count_others(api: Client) -> None:
    restricted = [
        (await create_key(api, "read", "operate", agents=["echo"]))["key"],
        *[
            await create_token(api, ROOT_KEY, "read", "operate", **fields)
            for fields in ({"subject": "ann"}, {"thread_id": "t"}, {"message_id": str(uuid7())})
        ],
    ]
    for key in restricted:
        for path in ("/queue", "/queues", "/queues/default", "/queues/missing", "/tenant"):
            assert (await api.get(path, headers=bearer(key))).status_code == 403, path
        assert (await api.get("/queues/default/dead-letters", headers=bearer(key))).json()["dead_letters"] == []
