"""AG-UI under /agui, with the unmodified @ag-ui/client in Node, and the validator of the protocol."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from service.access.principal import AUTH_OFF
from service.agents.builtin.echo import echo
from service.config import Settings
from service.events.model import Entry
from service.protocols.agui.content import Content, ToolData
from service.protocols.agui.ids import Asked, Run
from service.protocols.agui.streams import RunReader
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_answers import problem
from tests.support.api_client import Client
from tests.support.api_server import api_server
from tests.support.dialect_agents import scene_agent
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.node_client import play
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import LIMIT_SECONDS
from treadle import Rejected

TEXT = ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"]
CALL = ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"]
REASONING = ["START", "MESSAGE_START", "MESSAGE_CONTENT", "MESSAGE_END", "END"]


@pytest.fixture
async def api(start_api: StartApi, start_worker: StartWorker) -> Client:
    await start_worker(scene_agent(), echo)
    return await start_api()


async def test_the_client_plays_every_scene(api: Client) -> None:
    told = await play("agui", url=str(api.base_url), headers={})
    assert told["all"]["types"] == [
        *("RUN_STARTED", *(f"REASONING_{what}" for what in REASONING), "CUSTOM"),
        *(*TEXT, *CALL, "TOOL_CALL_RESULT", "STEP_STARTED", "STEP_FINISHED", *TEXT),
        *("STATE_SNAPSHOT", "RUN_FINISHED"),
    ]
    assert told["allMessages"] == [
        *(["user", "all", 0], ["reasoning", "What does it need?", 0], ["assistant", "I look. ", 1]),
        *(["tool", "blue", 0], ["assistant", "It is blue.", 0]),
    ]
    assert [name for name in told["again"]["types"] if "STATE" in name] == ["STATE_DELTA"]  # it knows the one before
    assert told["state"] == {"seen": {"0": "blue", "1": "blue"}}

    [interrupt] = told["ask"]["outcome"]["interrupts"]
    assert (interrupt["reason"], interrupt["message"]) == ("input_required", "Which unit?")
    assert told["ask"]["types"][-2] == "MESSAGES_SNAPSHOT"
    assert (told["refused"]["code"], "send it in resume" in told["refused"]["message"]) == ("refused", True)
    assert (told["answered"]["outcome"], told["answered"]["result"]) == ({"type": "success"}, "In Celsius.")
    assert told["answeredAgain"] == told["answered"]
    assert [text for _, text, _ in told["askMessages"]] == ["ask", "Let me see. ", "In Celsius."]
    assert told["abandoned"] == {"type": "cancelled"}

    assert told["weather"]["types"] == ["RUN_STARTED", *TEXT, *CALL, *CALL, "RUN_FINISHED"]
    assert told["weatherAnswer"]["result"] == "It is sun and rain."
    assert told["weatherMessages"][1] == ["assistant", "I look. ", 2]
    assert told["retryMessages"] == [["user", "retry", 0], ["assistant", "right", 0]]
    assert told["object"]["result"] == {"answer": 42}
    assert told["failed"] == {"message": "No trouble.", "code": "failed"}

    assert (told["stopped"], told["cancelled"]) == ({"stopped": True}, {"type": "cancelled"})
    assert told["cutTypes"] == ["RUN_STARTED", *TEXT, "RUN_FINISHED"]
    assert told["connected"] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert [text for _, text, _ in told["connectedMessages"]] == ["weather", "It is sun and rain."]


async def test_the_front_end_of_copilotkit_calls_its_tools_and_is_opened_again(api: Client) -> None:
    told = await play("copilotkit", url=str(api.base_url).rstrip("/"))
    asked, answer = ["user", "weather"], ["assistant", "It is sun and rain."]
    assert told["asked"] == ["Rome", "Oslo"]
    assert told["weather"] == [asked, ["assistant", "I look. "], ["tool", "sun"], ["tool", "rain"], answer]
    assert told["reloaded"] == [asked, answer]
    assert told["held"] == [["user", "hold"], ["assistant", "I hold. "]]
    [held] = (await api.get("/threads/held/messages")).json()["messages"]
    assert held["state"] == "cancelled"


async def test_the_validator_finds_nothing(api: Client) -> None:
    program = ROOT / ".tools/python/bin/ag-ui-validate"
    validate = require_or_skip(program if program.exists() else None, "ag-ui-validate: run make tools")
    process = await asyncio.create_subprocess_exec(
        *(validate, f"{api.base_url}/agui/echo", "--junit", "--max-warnings", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert (process.returncode, b'failures="0"' in said) == (0, True), said.decode()


def run_input(text: str = "hello", thread: str = "t", run: str = "r", **fields: Any) -> dict[str, Any]:
    return {"threadId": thread, "runId": run, "messages": [{"id": "u", "role": "user", "content": text}], **fields}


async def read(api: Client, path: str, body: Any, **headers: str) -> list[dict[str, Any]]:
    answer = await api.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n") if line.startswith("data: ")]


async def test_a_run_is_found_again_and_brings_the_history_that_the_thread_lacks(
    api: Client, start_api: StartApi
) -> None:
    events = await read(api, "/agui/echo", run_input("one two"))
    again = await read(await start_api(), "/agui/agent/echo/run", run_input("one two"))
    assert again == events
    [message] = (await api.get("/threads/t/messages")).json()["messages"]
    assert events[0]["metadata"]["treadle"]["messageId"] == message["message_id"]
    before = [
        {"id": "a", "role": "user", "content": "a"},
        {"id": "b", "role": "assistant", "content": "A", "toolCalls": None},
        {"id": "c", "role": "user", "name": None, "content": [{"type": "text", "text": "history", "metadata": None}]},
    ]
    context = [{"description": "Page", "value": "7"}]
    body = run_input(thread="foreign", context=context, state={"x": 1}) | {"messages": before}
    assert (await read(api, "/agui/scene", body))[-1]["result"] == [["a", "A"]]
    [kept] = (await api.get("/threads/foreign/messages")).json()["messages"]
    assert (kept["metadata"]["system"], kept["metadata"]["agui"]["state"]) == ("Page:\n7", {"x": 1})
    thread = "/threads/foreign"
    assert (await api.get(thread)).json()["memory"] == {"x": 1}
    connected = await read(api, "/agui/agent/scene/connect", run_input(thread="foreign"))
    assert connected[1]["messages"][0] == {"id": "c", "role": "user", "content": [{"type": "text", "text": "history"}]}
    assert connected[2]["snapshot"] == {"x": 1}
    known = [{"op": "add", "path": "/x", "value": 2}, {"op": "add", "path": "/y", "value": [3]}]
    removed = {"op": "remove", "path": "/own"}  # a field that the agent does not take from clients
    changes: tuple[tuple[str, Any, Any, dict[str, Any] | None], ...] = (
        ("2", {"x": 2, "y": [3]}, {"x": 2, "y": [3]}, None),
        ("3", {}, {"x": 2, "y": [3]}, {"type": "STATE_SNAPSHOT", "snapshot": {"x": 2, "y": [3]}}),
        ("4", {"z": 4, "own": 1}, {"x": 2, "y": [3], "z": 4}, {"type": "STATE_DELTA", "delta": [removed, *known]}),
        ("5", {"z": 5}, {"x": 2, "y": [3], "z": 4}, {"type": "STATE_DELTA", "delta": known}),
    )
    for run, state, memory, change in changes:
        text = "nothing" if run == "5" else "object"  # a run that fails saves nothing
        events = await read(api, "/agui/scene", run_input(text, thread="foreign", run=run, state=state))
        assert (await api.get(thread)).json()["memory"] == memory
        told = [event for event in events if event["type"].startswith("STATE_")]
        assert [{key: event[key] for key in change or ()} for event in told[:1]] == ([change] if change else [])
    assert told[1]["delta"] == [{"op": "replace", "path": "/z", "value": 4}]
    own = await read(api, "/agui/echo", run_input("x", thread="own", state={"x": 1}))  # echo takes no state
    assert [event for event in own if event["type"].startswith("STATE_")] == []
    large = await api.post("/agui/scene", json=run_input(run="6", state={"x": "a" * 1_000_000}))
    problem(large, 422, "state must have at most 1000000 bytes.")
    names = (await api.get("/agui/info")).json()
    assert (names["agents"]["echo"]["name"], names["mode"]) == ("echo", "sse")


@pytest.mark.usefixtures("patient_stop")
async def test_a_run_whose_server_stops_goes_on_at_another(api: Client, settings: Settings) -> None:
    """Clients take a stream without a last event for a success."""
    async with (
        api_server(settings) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=LIMIT_SECONDS) as client,
        client.stream("POST", "/agui/scene", json=run_input("hold")) as answer,
    ):
        lines = answer.aiter_lines()
        async for line in lines:
            if "I hold" in line:
                break
        server.server.should_exit = True
        last = [json.loads(line.removeprefix("data: ")) async for line in lines if line.startswith("data")][-1]
    assert (last["type"], last["code"]) == ("RUN_ERROR", "unavailable")
    assert (await api.post("/agui/agent/scene/stop/t")).json() == {"stopped": True}
    assert (await read(api, "/agui/scene", run_input("hold")))[-1]["outcome"] == {"type": "cancelled"}


async def test_an_interrupt_that_is_over_cancels_nothing(api: Client) -> None:
    async def resume(asked: dict[str, Any], status: str) -> dict[str, Any]:
        [interrupt] = asked["outcome"]["interrupts"]
        answer = {"interruptId": interrupt["id"], "status": status, "payload": "yes"}
        return (await read(api, "/agui/scene", run_input(resume=[answer])))[-1]

    first = (await read(api, "/agui/scene", run_input("two")))[-1]
    second = await resume(first, "resolved")
    assert second["outcome"]["interrupts"][0]["message"] == "Second?"
    assert (await resume(first, "cancelled"))["code"] == "refused"
    for _ in range(2):
        assert (await resume(second, "cancelled"))["outcome"] == {"type": "cancelled"}


async def test_an_answer_may_be_repeated_with_any_number(api: Client) -> None:
    [interrupt] = (await read(api, "/agui/scene", run_input("ask")))[-1]["outcome"]["interrupts"]

    async def resume(payload: Any) -> dict[str, Any]:
        answer = {"interruptId": interrupt["id"], "status": "resolved", "payload": payload}
        return (await read(api, "/agui/scene", run_input(resume=[answer])))[-1]

    for _ in range(2):
        assert (await resume([1e23, -0.0, 1]))["outcome"] == {"type": "success"}
    assert (await resume([1e23, -0.0, True]))["code"] == "refused"


async def test_what_a_failed_life_has_said_is_taken_back(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent
) -> None:
    await start_worker(script.agent)
    api = await start_api()
    script_id = await api.submit("go", agent="script", thread_id="t")
    script.say(script_id, "wrong ", Rejected("No."))
    await api.settled(script_id, "failed")
    assert (await api.post(f"/messages/{script_id}/redrive")).status_code == 202
    reading = asyncio.ensure_future(read(api, "/agui/agent/script/connect", run_input()))
    script.say(script_id, "right", None)
    events = await reading
    assert "CUSTOM" not in [event["type"] for event in events]
    snapshots = [event["messages"] for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
    assert [said["content"] for said in snapshots[-1]] == ["go", "right"]


def test_an_open_stream_keeps_no_messages() -> None:
    content = Content(Run(UUID(int=1)), wants_messages=False)
    said = [*content.reason("long", 1), *content.tool(ToolData("t", input={}, output="long"), 2), *content.add("long")]
    assert (len(said), next(iter(content.close()))["type"]) == (11, "TEXT_MESSAGE_END")
    assert content.told.messages == []
    assert list(content.drop()) == []
    assert content.dropped


async def test_a_request_that_cannot_run_is_refused(api: Client) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"threadId": "a/b"}, "threadId must be"),
        ({"messages": []}, "must end with a message of the user"),
        ({"messages": [{"id": "1", "role": "robot"}]}, "The role"),
        ({"messages": [{"id": "1", "role": "activity", "content": {}}]}, "must end with a message of the user"),
        ({"messages": [{"id": "1", "role": "user", "content": [{"type": "audio"}]}]}, "'audio'"),
        ({"messages": [{"id": "1", "role": "tool", "toolCallId": "x", "content": "y"}]}, "Answer an interrupt"),
        ({"resume": [{"interruptId": "int_1", "status": "resolved"}]}, "Answer an interrupt"),
        ({"runId": None}, "runId must be"),
    ]
    for change, words in changes:
        problem(await api.post("/agui/echo", json=run_input() | change), 422, words)


async def test_keys_decide_about_runs(start_api: StartApi, start_worker: StartWorker) -> None:
    await start_worker(scene_agent(), echo)
    api = await start_api(**CLOSED)
    problem(await api.post("/agui/echo", json=run_input()), 401, "Send a key")
    for scope, reading in (("read", 200), ("submit", 403)):
        key = bearer((await create_key(api, scope))["key"])
        assert (await api.get("/agui/info", headers=key)).status_code == reading
        assert (await api.post("/agui/echo", json=run_input(), headers=key)).status_code == 403
    own = bearer((await create_key(api, "read", "submit", agents=["echo"]))["key"])
    problem(await api.post("/agui/scene", json=run_input(), headers=own), 422, "There is no agent 'scene'")
    assert list((await api.get("/agui/info", headers=own)).json()["agents"]) == ["echo"]
    asked = await read(api, "/agui/scene", run_input("ask", "mine"), **bearer(ROOT_KEY))
    [interrupt] = asked[-1]["outcome"]["interrupts"]
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "x"}]
    body = run_input(thread="mine", run="2", resume=resume)
    problem(await api.post("/agui/scene", json=body, headers=own), 404, "There is no message")
    assert (await api.post("/agui/agent/echo/stop/mine", headers=own)).json()["stopped"] is False
    assert [event["type"] for event in await read(api, "/agui/agent/echo/connect", body, **own)] == [
        *("RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"),
    ]


@pytest.mark.parametrize("offered", [["look"], []])
async def test_a_run_that_goes_on_takes_no_state_back(offered: list[str]) -> None:
    """The memory of a message that waits for a tool of the client, or for a person, is not stored yet."""
    run = Run(uuid7())
    question = {"hold": "input", "name": "q", "question": {"name": "look", "arguments": {}}}
    parked = Entry(run.message_id, 3, 3, "parked", json.dumps(question), datetime.now(UTC), last=False)

    async def follow(*_: Any) -> AsyncIterator[list[Entry]]:
        yield [parked]

    async def read_log(*_: Any) -> AsyncIterator[Entry]:
        yield parked

    async def get_thread(*_: Any) -> SimpleNamespace:
        return SimpleNamespace(memory={})

    services: Any = SimpleNamespace(
        follower=SimpleNamespace(follow=follow, read=read_log), threads=SimpleNamespace(get=get_thread)
    )
    asked = Asked("t", "1", None, frozenset(offered))
    reader = RunReader(services, AUTH_OFF, run, asked, [], state={"x": 1}, told={"x": 1})
    told = b"".join([frame async for frame in reader.events()]).decode()
    assert ("pendingToolCallIds" in told, "STATE_" in told) == (bool(offered), False)
    assert '"RUN_FINISHED"' in told
