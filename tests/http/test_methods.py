"""HEAD, OPTIONS and `Allow`: every route has all of them, complete."""

from typing import Any

import pytest

from tests.support.api_answers import UNKNOWN_ID, get, problem
from tests.support.api_client import Client
from tests.support.scripted_agent import ScriptedAgent
from tests.support.sse_reader import stream_path


async def test_allow_names_every_method_of_each_described_route(api: Client) -> None:
    for path, item in (await get(api, "/openapi.json"))["paths"].items():
        expected = {*(method.upper() for method in item), "OPTIONS"} | ({"HEAD"} if "get" in item else set())
        names = {
            "message_id": UNKNOWN_ID,
            "thread_id": "t",
            "name": "default",
            "agent": "echo",
            "key_id": "k",
            "webhook_id": "w",
        }
        address = path.format(**names, tenant="default", topic="t", record_id=UNKNOWN_ID, worker_id="w")
        options = await api.options(address)
        assert (options.status_code, options.content) == (204, b"")
        assert set(options.headers["allow"].split(", ")) == expected, path
        unused = "PUT" if "patch" in item else "PATCH"
        refused = await api.request(unused, address)
        problem(refused, 405, unused, *expected)
        assert set(refused.headers["allow"].split(", ")) == expected, path


async def test_options_of_an_unknown_route_is_404(api: Client) -> None:
    problem(await api.options("/nope"), 404, "There is no route")


async def test_head_is_the_head_of_get(api: Client) -> None:
    message_id = await api.submit("x", thread_id="t")
    for path in (
        *("/health", "/health/live", "/queue", "/threads", "/threads/t", "/agents", "/openapi.json", "/docs", "/chat"),
        *(f"/messages/{message_id}/status", f"/messages/{UNKNOWN_ID}/status", "/nope", "/threads?limit=0"),
    ):
        head, full = await api.head(path), await api.get(path)
        assert (head.status_code, head.content) == (full.status_code, b""), path
        for name in ("content-type", "content-length"):
            assert head.headers.get(name) == full.headers.get(name), path
    assert (await api.head("/messages/batch")).status_code == 405


async def test_head_of_a_stream_ends_at_once(scripted_api: Client, script: ScriptedAgent) -> None:
    message_id = await scripted_api.submit("go", thread_id="t")
    for path in (stream_path(message_id), "/threads/t/stream"):
        head = await scripted_api.head(path)
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    script.say(message_id, None)
    await scripted_api.settled(message_id)


@pytest.mark.parametrize("path", ["/ws/chat?thread_id=t", "/ws/t"])
async def test_a_socket_address_without_a_handshake_is_426(api: Client, path: str) -> None:
    answer = await api.get(path)
    problem(answer, 426, "WebSocket")
    assert answer.headers["upgrade"] == "websocket"


BAD_QUERIES: dict[str, Any] = {
    "GET": ["/threads?limits=1", "/queue?x=1", "/health?verbose", "/threads/t/messages?after=1", "/agents?a=1&a=2"],
    "DELETE": ["/threads/t?force=1", f"/messages/{UNKNOWN_ID}?x="],
    "POST": [f"/messages/{UNKNOWN_ID}/redrive?x=1", "/queues/default/pause?for=5"],
}


async def test_an_unknown_query_parameter_is_422(api: Client) -> None:
    for method, paths in BAD_QUERIES.items():
        for path in paths:
            problem(await api.request(method, path), 422, "is not a known query parameter")
    problem(await api.post("/messages?x=1", json={"message": "x"}), 422, "'x'")
    problem(await api.get("/threads?limit=1&limit=2"), 422, "limit is given more than once")
    assert (await api.get("/threads?limit=1")).status_code == 200
    assert (await api.get("/chat?from=mail")).status_code == 200
