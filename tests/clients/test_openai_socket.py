"""/v1/responses as a WebSocket, with the unmodified packages `openai` and `openai-agents` as clients."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.agents.builtin.echo import echo
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.openai_agents import openai_agents
from tests.support.openai_frameworks import close_clients
from tests.support.openai_frameworks import openai_agents as agents_sdk
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from tests.support.websocket_client import open_socket

ENDS = {"response.completed", "response.failed", "error", "response.steer.failed"}


@pytest.fixture
async def api(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> Client:
    await start_worker(echo, script.agent, *openai_agents())
    return await start_api()


@pytest.fixture
async def client(api: Client) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=f"{api.base_url}/v1", api_key="unused") as found:
        yield found


async def answer(socket: Any) -> list[Any]:
    """The events of the next response."""
    events = [await socket.recv()]
    while events[-1].type not in ENDS:
        events.append(await socket.recv())
    return events


async def test_a_socket_has_the_events_of_the_stream(client: Any, script: ScriptedAgent) -> None:
    async with client.responses.connect() as socket:
        await socket.response.create(model="recall", input="a")
        first = await answer(socket)
        assert first[-1].type == "response.completed"
        streamed = [event async for event in await client.responses.retrieve(first[0].response.id, stream=True)]
        assert [event.to_dict() for event in streamed] == [event.to_dict() for event in first]
        await socket.response.create(model="recall", input="b", previous_response_id=first[-1].response.id)
        second = (await answer(socket))[-1].response
        assert [exchange[0] for exchange in json.loads(second.output_text)[0]] == ["a"]
        for wrong, code in (
            ({"type": "response.create", "model": "missing", "input": "x"}, "invalid_value"),
            ({"type": "response.create", "model": "echo", "input": "x", "generate": False}, "invalid_value"),
            (
                {"type": "response.create", "model": "echo", "input": "x", "previous_response_id": "resp_x"},
                "previous_response_not_found",
            ),
            ({"type": "other"}, "invalid_value"),
            (["x"], "invalid_value"),
        ):
            await socket.send_raw(json.dumps(wrong))
            [error] = await answer(socket)
            assert (error.type, error.error.code) == ("error", code)
        await socket.send_raw(json.dumps({"type": "response.steer", "previous_response_id": second.id, "input": "x"}))
        [refused] = await answer(socket)
        assert refused.error.code == "steering_not_supported"
        # Lanes run side by side; the responses of a lane follow one another.
        await socket.response.create(model="script", input="slow", stream_id="a")
        slow = await socket.recv()
        assert (slow.type, slow.stream_id) == ("response.created", "a")
        await socket.response.create(model="echo", input="next", stream_id="a")
        await socket.response.create(model="echo", input="quick", stream_id="b")
        events: list[Any] = []
        while not events or events[-1].type != "response.completed":
            events.append(await socket.recv())
        assert (events[-1].stream_id, events[-1].response.output_text) == ("b", "quick")
        await client.responses.cancel(slow.response.id)
        ended = await answer(socket)
        assert (ended[-1].type, ended[-1].response.status, ended[-1].stream_id) == ("response.failed", "cancelled", "a")
        assert (await answer(socket))[-1].response.output_text == "next"
        await socket.response.create(model="script", input="left")
        left = (await socket.recv()).response.id
    # A socket that is closed cancels nothing.
    script.say(left.removeprefix("resp_"), "x")
    await until(lambda: client.responses.retrieve(left), lambda found: found.status == "in_progress")


async def test_a_framework_uses_the_socket(api: Client) -> None:
    framework = agents_sdk(responses=True, socket=True)
    answered = json.loads(await framework.turns(str(api.base_url)))
    assert [exchange[0] for exchange in answered[0]] == ["a"]
    await close_clients()


async def test_access_and_bounds_of_a_socket(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents()
    api = await start_api(**CLOSED)
    url = f"ws://127.0.0.1:{api.base_url.port}/v1/responses"
    create = json.dumps({"type": "response.create", "model": "echo", "input": "x"})
    for headers, status, code in (
        (bearer("nonsense"), 401, "invalid_api_key"),
        (bearer((await create_key(api, "read"))["key"]), 403, "insufficient_permissions"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with open_socket(url, additional_headers=headers):
                pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == code
    made = await create_key(api, "read", "submit")
    async with open_socket(f"{url}?token={made['key']}") as socket:
        for lane in range(33):
            await socket.connection.send(json.dumps({**json.loads(create), "stream_id": str(lane)}))
        error: dict[str, Any] = {}
        while error.get("type") != "error":
            error = json.loads(await socket.connection.recv())
        assert (error["status"], error["stream_id"]) == (429, "32")
        await api.delete(f"/keys/{made['key_id']}", headers=bearer(ROOT_KEY))
        last = ""
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket.connection:
                last = str(frame)
        assert (socket.connection.close_code, json.loads(last)["error"]["code"]) == (1008, "invalid_api_key")
