"""A2A 1.0 over plain HTTP: errors in both bindings, repeats, cards, and what a key may see."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from service.access.principal import Principal
from service.agents.rounds.request import ModelInput
from service.errors import Unauthorized, Unavailable
from service.events.follower import Follower
from service.events.model import Entry
from service.messages.model import Status
from service.protocols.a2a import lists
from service.protocols.a2a.calls import Begun
from service.protocols.a2a.errors import as_a2a
from service.protocols.a2a.services import A2AServices, Caller
from service.protocols.a2a.streams import Binding
from service.protocols.a2a.streams import body as body_of
from tests.support.access import CLOSED, ROOT_KEY, bearer, create_key
from tests.support.api_answers import UNKNOWN_ID
from tests.support.api_client import Client
from tests.support.dialect_agents import scene_agent
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.scripted_agent import ScriptedAgent
from treadle import Context, Rejected, agent

VERSION = {"A2A-Version": "1.0"}


@pytest.fixture
async def apis(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> list[Client]:
    await start_worker(script.agent, scene_agent())
    return [await start_api(), await start_api()]


async def rpc(api: Client, method: str, params: Any, path: str = "/a2a", **headers: str) -> Any:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    answer = await api.post(path, json=body, headers=VERSION | headers)
    assert (answer.status_code, answer.json()["id"]) == (200, 7), answer.text
    return answer.json().get("result", answer.json().get("error"))


def message(*parts: Any, **fields: Any) -> dict[str, Any]:
    given = {"messageId": uuid.uuid4().hex, "role": "ROLE_USER", "parts": list(parts) or [{"text": "object"}]}
    return {"message": given | fields, "configuration": {"returnImmediately": True}}


async def test_an_answer_that_is_sent_again_answers_no_other_question(apis: list[Client]) -> None:
    def answering(text: str) -> dict[str, Any]:
        return message({"text": text}, taskId=task["id"]) | {"configuration": {}}

    def asked() -> str:
        return str(task["status"]["message"]["parts"][0]["text"])

    task = (await rpc(apis[0], "SendMessage", message({"text": "two"}) | {"configuration": {}}, "/a2a/scene"))["task"]
    assert asked() == "First?"
    first, second = answering("yes"), answering("yes")
    for api in (apis[0], apis[1], apis[0]):
        task = (await rpc(api, "SendMessage", first, "/a2a/scene"))["task"]
        assert asked() == "Second?"
    for given in (second, first, second):
        task = (await rpc(apis[1], "SendMessage", given, "/a2a/scene"))["task"]
        assert task["artifacts"][0]["parts"][0]["data"] == ["yes", "yes"]


async def test_a_task_that_was_redriven_and_cancelled_did_not_fail(apis: list[Client], script: ScriptedAgent) -> None:
    task = (await rpc(apis[0], "SendMessage", message({"text": "go"}), "/a2a/script"))["task"]
    script.say(task["id"], "wrong ", Rejected("No."))
    await apis[0].settled(task["id"], "failed")
    assert (await apis[0].post(f"/messages/{task['id']}/redrive")).status_code == 202
    cancelled = await rpc(apis[1], "CancelTask", {"id": task["id"]})
    assert cancelled["status"]["state"] == "TASK_STATE_CANCELED"


class NoLog(Follower):
    """While PostgreSQL is away."""

    def __init__(self) -> None:
        """Without a feed."""

    async def read(self, message_id: uuid.UUID, after: int) -> AsyncIterator[Entry]:
        raise Unavailable("PostgreSQL does not answer.")
        yield


async def test_a_task_whose_log_cannot_be_read_is_answered_as_far_as_it_is_known(apis: list[Client]) -> None:
    status = msgspec.convert(await apis[0].status(await apis[0].submit("object", agent="scene")), Status)
    services: Any = A2AServices(*[None] * len(A2AServices._fields))._replace(follower=NoLog())  # type: ignore[arg-type]
    caller = Caller(Principal("default", frozenset(), "test"), None)
    parts = [part async for part in body_of(services, caller, Begun(status, None), Binding())]
    assert json.loads(b"".join(parts))["task"]["id"] == str(status.message_id)


async def test_errors_have_their_code_and_reason_in_both_bindings(apis: list[Client]) -> None:
    api = apis[0]
    named = message(metadata={"agent": "scene"})
    task = (await rpc(api, "SendMessage", named))["task"]
    again = (await rpc(apis[1], "SendMessage", named))["task"]
    assert (again["id"], again["contextId"]) == (task["id"], task["contextId"])  # a repeat
    await api.settled(task["id"])
    unknown = str(uuid.uuid4())
    audio = message({"raw": "AAAA", "mediaType": "audio/wav"})
    modes = message() | {"configuration": {"acceptedOutputModes": ["image/png"]}}
    push = message() | {"configuration": {"taskPushNotificationConfig": {"url": "https://example.com"}}}
    of_task = {"taskId": task["id"], "url": "https://example.com"}
    for method, params, code, reason in (
        ("GetTask", {"id": unknown}, -32001, "TASK_NOT_FOUND"),
        ("GetTask", {"id": "x"}, -32001, "TASK_NOT_FOUND"),
        ("CancelTask", {"id": task["id"]}, -32002, "TASK_NOT_CANCELABLE"),
        ("SendMessage", push, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("CreateTaskPushNotificationConfig", of_task, -32003, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
        ("CreateTaskPushNotificationConfig", of_task | {"url": "https://10.0.0.1"}, -32602, "INVALID_PARAMS"),
        ("CreateTaskPushNotificationConfig", of_task | {"token": "a\nb"}, -32602, "INVALID_PARAMS"),
        ("CreateTaskPushNotificationConfig", of_task | {"taskId": unknown}, -32001, "TASK_NOT_FOUND"),
        ("GetTaskPushNotificationConfig", {"taskId": task["id"], "id": "x"}, -32001, "TASK_NOT_FOUND"),
        ("SubscribeToTask", {"id": task["id"]}, -32004, "UNSUPPORTED_OPERATION"),
        ("SendMessage", audio, -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
        ("SendMessage", modes, -32005, "CONTENT_TYPE_NOT_SUPPORTED"),
        ("GetExtendedAgentCard", {}, -32007, "EXTENDED_AGENT_CARD_NOT_CONFIGURED"),
        ("tasks/get", {}, -32601, "METHOD_NOT_FOUND"),
        ("GetTask", {}, -32602, "INVALID_PARAMS"),
        ("GetTask", [task["id"]], -32602, "INVALID_PARAMS"),
        ("GetTask", {"id": task["id"], "historyLength": -1}, -32602, "INVALID_PARAMS"),
        ("ListTasks", {"pageSize": 101}, -32602, "INVALID_PARAMS"),
        ("ListTasks", {"status": "working"}, -32602, "INVALID_PARAMS"),
        ("SendMessage", message({"data": 7}), -32602, "INVALID_PARAMS"),
        ("SendMessage", message(contextId="a/b"), -32602, "INVALID_PARAMS"),
        ("SendMessage", message(taskId=task["id"], contextId="other"), -32602, "INVALID_PARAMS"),
    ):
        error = await rpc(api, method, params)
        assert (error["code"], error["data"][0]["reason"]) == (code, reason), (method, error)
    assert as_a2a(Unauthorized("The key was revoked.")).code == -32603  # in a stream that has begun
    unread = (
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"method": "x"}', -32600),
        (b'{"jsonrpc": "1", "method": "x"}', -32600),
        (b'{"jsonrpc": "2.0", "method": "GetTask", "id": "%s"}' % (b"x" * 256), -32600),  # each event would repeat it
    )
    for body, code in unread:
        answer = await api.post("/a2a", content=body, headers=VERSION | {"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, code)
    old = await api.post("/a2a", json={"jsonrpc": "2.0", "id": 1, "method": "GetTask"})
    assert old.json()["error"]["code"] == -32009
    for answer, status, reason in (
        (await api.get(f"/a2a/tasks/{unknown}", headers=VERSION), 404, "TASK_NOT_FOUND"),
        (await api.get(f"/a2a/script/tasks/{task['id']}?A2A-Version=1.0"), 404, "TASK_NOT_FOUND"),
        (await api.get(f"/a2a/tasks/{task['id']}"), 400, "VERSION_NOT_SUPPORTED"),
        (await api.post(f"/a2a/tasks/{task['id']}:cancel", headers=VERSION), 400, "TASK_NOT_CANCELABLE"),
        (await api.post(f"/a2a/tasks/{task['id']}:pause", headers=VERSION), 404, "METHOD_NOT_FOUND"),
        (await api.get("/a2a/tasks?pageSize=x", headers=VERSION), 400, "INVALID_PARAMS"),
        (await api.post("/a2a/message:send", json={}, headers=VERSION), 400, "INVALID_PARAMS"),
        (await api.post("/a2a/missing/message:send", json=message(), headers=VERSION), 400, "INVALID_PARAMS"),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["details"][0]["reason"]) == (status, status, reason), error


async def test_cards_and_keys(
    start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    @agent("files")
    async def files(context: Context, message: str | ModelInput) -> None:
        """Takes files."""

    await start_worker(script.agent, scene_agent(), files)
    free = await start_api()
    card = await free.get("/.well-known/agent-card.json")
    assert [skill["id"] for skill in card.json()["skills"]] == ["files", "scene", "script"]
    modes = ["text/plain", "application/json", "image/png", "image/jpeg", "application/pdf"]
    assert [skill["inputModes"] for skill in card.json()["skills"]] == [modes, ["text/plain"], ["text/plain"]]
    assert card.json()["defaultInputModes"] == modes
    assert [interface["url"] for interface in card.json()["supportedInterfaces"]] == [f"{free.base_url}/a2a"] * 2
    assert (await free.get("/a2a/.well-known/agent-card.json")).json() == card.json()
    headers = {"If-None-Match": card.headers["etag"]}
    assert (await free.get("/.well-known/agent-card.json", headers=headers)).status_code == 304
    assert (await free.get("/a2a/missing/.well-known/agent-card.json")).status_code == 404

    api = await start_api(**CLOSED)
    card = await api.get("/.well-known/agent-card.json")
    assert ([skill["id"] for skill in card.json()["skills"]], "bearer" in card.json()["securitySchemes"]) == (
        *(["message"], True),
    )
    assert (await api.get("/a2a/scene/.well-known/agent-card.json")).status_code == 401
    reads = bearer((await create_key(api, "read"))["key"])
    submits = bearer((await create_key(api, "submit"))["key"])
    limited = bearer((await create_key(api, "read", "submit", agents=["script"]))["key"])
    assert [skill["id"] for skill in (await rpc(api, "GetExtendedAgentCard", {}, **limited))["skills"]] == ["script"]
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": message() | {"id": UNKNOWN_ID}}
    for key, method, status in (
        *((reads, "SendMessage", 403), (reads, "ListTasks", 200), (reads, "CancelTask", 403)),
        *((submits, "ListTasks", 403), (submits, "CancelTask", 403)),
    ):
        answer = await api.post(
            "/a2a", json=call | {"method": method, "params": message() | {"id": UNKNOWN_ID}}, headers=VERSION | key
        )
        assert answer.status_code == status, (method, answer.text)
    assert (await api.post("/a2a", json=call, headers=VERSION)).status_code == 401
    ended = message() | {"configuration": {}}  # the answer comes when the task has ended
    task = (await rpc(api, "SendMessage", ended, "/a2a/scene", **bearer(ROOT_KEY)))["task"]
    for method in ("GetTask", "CancelTask", "SubscribeToTask"):
        error = await rpc(api, method, {"id": task["id"]}, **limited)
        assert (error["code"], error["message"]) == (-32001, f"There is no task {task['id']!r}.")
    error = await rpc(api, "SendMessage", message(taskId=task["id"]), **limited)
    assert error["code"] == -32001
    assert (await rpc(api, "ListTasks", {}, **limited))["totalSize"] == 0

    # A list that has only stopped looking says so: the newest messages are those of another agent.
    monkeypatch.setattr(lists, "MANY_LOOKS", 1)
    monkeypatch.setattr(lists, "MAX_LOOKS", 1)
    for wanted in ({}, {"status": "TASK_STATE_COMPLETED"}, {"statusTimestampAfter": "2000-01-01T00:00:00Z"}):
        listed = await rpc(api, "ListTasks", wanted, "/a2a/files", **bearer(ROOT_KEY))
        assert (listed["tasks"], listed["nextPageToken"]) == ([], task["id"]), wanted
