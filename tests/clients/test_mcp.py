"""The Model Context Protocol under /mcp: calls, streams that are cut, cancellation, resources, and who may do what."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from service.agents.builtin.echo import echo
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.fixture_types import RegisterAgents, StartApi, StartWorker
from tests.support.openai_agents import openai_agents
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from treadle import Context, agent


class Order(msgspec.Struct):
    number: int


@agent("order")
async def order(context: Context, given: Order) -> Order:
    """Returns an order."""
    return given


def request(method: str, id: Any = 1, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def call(name: str, message: Any, *, id: Any = 1, token: Any = None, **arguments: Any) -> dict[str, Any]:
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return request("tools/call", id, name=name, arguments={"message": message, **arguments}, **meta)


async def ask(api: Client, body: Any, **headers: str) -> Any:
    answer = await api.post("/mcp", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json().get("result", answer.json().get("error"))


@pytest.fixture
async def apis(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> list[Client]:
    await start_worker(echo, script.agent, order, openai_agents()[1])
    return [await start_api(), await start_api()]


async def test_agents_are_tools(apis: list[Client]) -> None:
    api, _ = apis
    started = await api.post("/mcp", json=request("initialize", protocolVersion="2025-06-18"))
    assert (started.json()["result"]["protocolVersion"], len(started.headers["mcp-session-id"])) == ("2025-06-18", 32)
    assert (await api.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
    tools = {tool["name"]: tool for tool in (await ask(api, request("tools/list")))["tools"]}
    assert tools.keys() == {"echo", "order", "script", "weather"}
    schema = tools["order"]["inputSchema"]
    assert (schema["properties"]["message"], schema["required"]) == ({"$ref": "#/$defs/Order"}, ["message"])
    assert schema["$defs"]["Order"]["required"] == ["number"]
    text = await ask(api, call("echo", "hello", session_id="t"))
    assert (await api.get("/messages?session_id=t")).json()["messages"][0]["agent"] == "echo"
    assert text == {"content": [{"type": "text", "text": "hello"}], "isError": False}
    made = await ask(api, call("order", {"number": 7}))
    assert made == {
        "content": [{"type": "text", "text": '{"number":7}'}],
        "isError": False,
        "structuredContent": {"number": 7},
    }
    asks = await ask(api, call("weather", "Rome"))
    assert (asks["isError"], "waits for an answer" in asks["content"][0]["text"]) == (True, True)
    for body, code, words in (
        (call("missing", "x"), -32602, "There is no agent 'missing'"),
        (call("order", "x"), -32602, "does not fit"),
        (call("echo", ""), -32602, "message must be"),
        (call("echo", "x", thread_id="a/b"), -32602, "thread_id must be"),
        (call("echo", "x", thread_id="a", session_id="b"), -32602, "another name of thread_id"),
        (request("tools/call", arguments={}), -32602, "cannot be read"),
        (request("prompts/list"), -32601, "There is no method"),
        (request("resources/read", uri="file:///x"), -32002, "There is no resource"),
    ):
        error = await ask(api, body)
        assert (error["code"], words in error["message"]) == (code, True), error
    [thread] = (await ask(api, request("resources/list")))["resources"]
    assert (thread["uri"], thread["description"]) == ("treadle://threads/t", "hello")
    [content] = (await ask(api, request("resources/read", uri=thread["uri"])))["contents"]
    assert [message["result"] for message in msgspec.json.decode(content["text"])] == ["hello"]
    assert (await api.get("/mcp")).status_code == 405
    assert (await api.delete("/mcp")).status_code == 204


async def frames(answer: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """The ids of the events with the messages; of the first one, which has no data, None."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    seen = ""
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            seen = value
        if name == "data":
            data = msgspec.json.decode(value) if value else None
        if not line and seen:
            yield seen, data


async def test_a_call_goes_on_at_another_replica(apis: list[Client], script: ScriptedAgent) -> None:
    headers = {"Accept": "application/json, text/event-stream", "Mcp-Session-Id": "s"}
    body = call("script", "go", id="a", token=5)
    async with apis[0].stream("POST", "/mcp", json=body, headers=headers) as answer:
        cut = frames(answer)
        first, _ = await anext(cut)
        script.say(message_of(first), "one ")
        seen = [(await anext(cut))[1] for _ in range(2)]
        place = first
    assert [told["params"].get("message") for told in seen] == [None, "one "]
    script.say(message_of(first), "two", None)
    for after, pieces in ((place, ["one ", "two"]), (place_of(place, seen[-1]), ["two"])):
        async with apis[1].stream("GET", "/mcp", headers={"Last-Event-ID": after}) as answer:
            rest = [told async for _, told in frames(answer) if told]
        assert [told["params"]["message"] for told in rest[:-1] if "message" in told["params"]] == pieces
        assert (rest[-1]["id"], rest[-1]["result"]["content"][0]["text"]) == ("a", "one two")
    again = await ask(apis[1], body, **{"Mcp-Session-Id": "s"})  # the same request: the same message
    assert again["content"][0]["text"] == "one two"
    problem(await apis[0].get("/mcp", headers={"Last-Event-ID": "1"}), 400, "Last-Event-ID")


LONGEST = "\x01" * 254  # six bytes a character in JSON


async def test_requests_that_differ_in_a_long_id_or_session_are_two(apis: list[Client]) -> None:
    for session, ids in (("s", (f"{LONGEST}1", f"{LONGEST}2")), ("y" * 200, (1, "1")), ("y" * 200 + "z", (1, "1"))):
        for id in ids:
            answer = await apis[0].post("/mcp", json=call("echo", "x", id=id), headers={"Mcp-Session-Id": session})
            assert answer.json()["id"] == id
    assert len((await apis[0].get("/messages")).json()["messages"]) == 6


async def test_the_stream_of_the_longest_id_is_resumed(apis: list[Client]) -> None:
    body = call("echo", "x", id=f"{LONGEST}1", token=f"{LONGEST}2")
    async with apis[0].stream("POST", "/mcp", json=body, headers={"Accept": "text/event-stream"}) as answer:
        seen = [each async for each in frames(answer)]
    async with apis[1].stream("GET", "/mcp", headers={"Last-Event-ID": seen[0][0]}) as answer:
        again = [each async for each in frames(answer)]
    assert (again[-1][1]["id"], again[-2][1]["params"]["progressToken"]) == (f"{LONGEST}1", f"{LONGEST}2")
    assert again[1:] == seen[1:]


@pytest.mark.parametrize("id", ["x" * 256, 10**255])
async def test_an_id_that_is_too_long_is_refused(apis: list[Client], id: Any) -> None:
    rule = "must be a number or a text, of at most 255 characters."
    for method in ("tools/call", "initialize", "ping"):
        answer = (await apis[0].post("/mcp", json=request(method, id))).json()
        assert answer == {"jsonrpc": "2.0", "id": id, "error": {"code": -32600, "message": f"id {rule}"}}
    error = await ask(apis[0], call("echo", "x", token=id))
    assert error == {"code": -32602, "message": f"progressToken {rule}"}
    assert (await apis[0].get("/messages")).json()["messages"] == []


def message_of(place: str) -> str:
    found = place.partition(".")[0]
    return "-".join((found[:8], found[8:12], found[12:16], found[16:20], found[20:]))


def place_of(first: str, told: Any) -> str:
    """The id of the event with this progress."""
    message, _, asked = first.split(".")
    return f"{message}.{told['params']['progress']}.{asked}"


async def test_a_cancelled_call_stops_its_agent(apis: list[Client], script: ScriptedAgent) -> None:
    headers = {"Accept": "text/event-stream", "Mcp-Session-Id": "s"}
    async with apis[0].stream("POST", "/mcp", json=call("script", "go", id=9), headers=headers) as answer:
        events = frames(answer)
        first, _ = await anext(events)
        await until(lambda: apis[0].status(message_of(first)), lambda status: status["state"] == "processing")
        told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}}
        assert (await apis[1].post("/mcp", json=told, headers={"Mcp-Session-Id": "s"})).status_code == 202
        _, last = await anext(events)
    assert (last["result"]["isError"], last["result"]["content"][0]["text"]) == (True, "The call was cancelled.")


async def test_keys_decide_about_tools_and_calls(start_api: StartApi, register_agents: RegisterAgents) -> None:
    await register_agents(echo, order)
    api = await start_api(**CLOSED, max_queue_size=0)
    problem(await api.post("/mcp", json=request("tools/list")), 401, "Send a key")
    reads = bearer((await create_key(api, "read", "submit", agents=["order"]))["key"])
    assert [tool["name"] for tool in (await ask(api, request("tools/list"), **reads))["tools"]] == ["order"]
    assert (await ask(api, call("echo", "x"), **reads))["message"] == "There is no agent 'echo'."
    only_reads = bearer((await create_key(api, "read"))["key"])
    assert "lacks the scope submit" in (await ask(api, call("echo", "x"), **only_reads))["message"]
    full = await api.post("/mcp", json=call("echo", "x"), headers=bearer(ROOT_KEY))
    problem(full, 429, "full")
