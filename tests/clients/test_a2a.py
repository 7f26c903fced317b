"""A2A 1.0 under /a2a, with the unmodified clients of PyPI and npm."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from google.protobuf.json_format import MessageToDict, Parse
from standardwebhooks import Webhook

from service.access.principal import Principal
from service.agents.rounds.request import ModelInput
from service.db.pool import Connection
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
from tests.support.hook_receiver import HookReceiver, Received, hurry
from tests.support.node_client import play
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import until
from tests.support.worker_processes import lose_lease
from treadle import Context, Rejected, agent

RUN = [("JSONRPC", True), ("JSONRPC", False), ("HTTP+JSON", True), ("HTTP+JSON", False)]


@pytest.fixture
async def apis(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> list[Client]:
    await start_worker(script.agent, scene_agent())
    return [await start_api(), await start_api()]


@contextlib.asynccontextmanager
async def connect(
    api: Client, agent: str, binding: str = "JSONRPC", *, streaming: bool = True, push: Any = None
) -> AsyncIterator[Any]:
    config = ClientConfig(supported_protocol_bindings=[binding], streaming=streaming, push_notification_config=push)
    url = str(api.base_url).rstrip("/") + f"/a2a/{agent}"
    async with await ClientFactory(config).create_from_url(url) as client:
        yield client


def said(text: str, **fields: Any) -> pb.SendMessageRequest:
    message = pb.Message(message_id=uuid.uuid4().hex, role="ROLE_USER", parts=[pb.Part(text=text)], **fields)
    return pb.SendMessageRequest(message=message)


async def told(events: Any) -> list[dict[str, Any]]:
    return [MessageToDict(event) async for event in events]


def answer(events: list[dict[str, Any]]) -> str:
    """The text of the artifact, and the last state."""
    text = ""
    for event in events:
        artifacts = event.get("task", {}).get("artifacts", [])
        if "artifactUpdate" in event:
            artifacts = [event["artifactUpdate"]["artifact"]]
            text = text if event["artifactUpdate"].get("append") else ""
        elif artifacts:
            text = ""
        text += "".join(part.get("text", str(part.get("data"))) for artifact in artifacts for part in artifact["parts"])
    return text


def task_of(events: list[dict[str, Any]]) -> str:
    return str(events[0]["task"]["id"])


def state(event: dict[str, Any]) -> str:
    found = event.get("task", event.get("statusUpdate"))
    return str(found["status"]["state"]).removeprefix("TASK_STATE_") if found else ""


@pytest.mark.parametrize(("binding", "streaming"), RUN)
async def test_the_client_of_pypi(
    apis: list[Client], script: ScriptedAgent, sql: Connection, binding: str, streaming: bool
) -> None:
    """Plain, with an answer, cut and subscribed again, with the worker lost, cancelled."""
    async with connect(apis[0], "scene", binding, streaming=streaming) as scene:
        for text, artifact, last in (
            ("all", "I look. It is blue.", "COMPLETED"),
            ("retry", "right", "COMPLETED"),
            ("object", "{'answer': 42.0}", "COMPLETED"),
            ("nothing", "", "FAILED"),
            ("ask", "Let me see. ", "INPUT_REQUIRED"),
        ):
            events = await told(scene.send_message(said(text)))
            assert (answer(events), state(events[-1])) == (artifact, last)
        task = await scene.get_task(pb.GetTaskRequest(id=task_of(events)))
        assert [part.text for part in task.status.message.parts] == ["Which unit?"]
        reply = said("Celsius", task_id=task.id, context_id=task.context_id)
        for _ in range(2):  # the first answer may have been lost
            events = await told(scene.send_message(reply))
            assert (answer(events), state(events[-1])) == ("In Celsius.", "COMPLETED")
        history = (await scene.get_task(pb.GetTaskRequest(id=task.id))).history
        assert [message.parts[0].text for message in history] == ["ask", "Which unit?", "Celsius"]
        with pytest.raises(errors.UnsupportedOperationError):
            await told(scene.send_message(said("more", task_id=task.id)))
        with pytest.raises(errors.TaskNotCancelableError):
            await scene.cancel_task(pb.CancelTaskRequest(id=task.id))
        with pytest.raises(errors.TaskNotFoundError):
            await scene.get_task(pb.GetTaskRequest(id=str(uuid.uuid4())))

    async with (
        connect(apis[0], "script", binding) as first,
        connect(apis[1], "script", binding) as other,
        connect(apis[1], "script", binding, streaming=False) as blocking,
    ):
        asked = said("go", context_id="context")
        stream = first.send_message(asked)
        seen = [MessageToDict(await anext(stream))]
        task_id = task_of(seen)
        script.say(task_id, "wrong ")
        while not answer(seen):
            seen.append(MessageToDict(await anext(stream)))
        await stream.aclose()
        again = other.subscribe(pb.SubscribeToTaskRequest(id=task_id)) if streaming else blocking.send_message(asked)
        seen = [MessageToDict(await anext(again))] if streaming else []
        ending = asyncio.ensure_future(told(again))
        await lose_lease(sql, uuid.UUID(task_id))
        script.say(task_id, "one ", "two", None)
        script.say(task_id, "one ", "two", None)  # the lost attempt may take some of these
        events = seen + await ending
        assert (state(events[-1]), answer(events).endswith("two")) == ("COMPLETED", True)
        with pytest.raises(errors.UnsupportedOperationError):
            await told(first.subscribe(pb.SubscribeToTaskRequest(id=task_id)))

        stream = first.send_message(said("go", context_id="context"))
        going = task_of([MessageToDict(await anext(stream))])
        cancelled = await other.cancel_task(pb.CancelTaskRequest(id=going))
        assert pb.TaskState.Name(cancelled.status.state) == "TASK_STATE_CANCELED"
        assert state((await told(stream))[-1]) == "CANCELED"
        found = await other.list_tasks(pb.ListTasksRequest(context_id="context", page_size=1, include_artifacts=True))
        assert ([task.id for task in found.tasks], found.total_size) == ([going], 2)
        found = await other.list_tasks(pb.ListTasksRequest(page_token=found.next_page_token, context_id="context"))
        assert ([task.id for task in found.tasks], found.next_page_token) == ([task_id], "")
        wanted = pb.ListTasksRequest(status="TASK_STATE_CANCELED")
        assert [task.id for task in (await first.list_tasks(wanted)).tasks] == [going]


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_push_notifications(
    start_api: StartApi, start_worker: StartWorker, sql: Connection, binding: str
) -> None:
    """The client of PyPI names an address with its message, and others with calls. Each hears of questions and ends."""
    webhooks: dict[str, Any] = {"webhook_networks": ("127.0.0.0/8",), "webhook_http": True}
    await start_worker(scene_agent(), webhook_concurrency=20, **webhooks)
    api = await start_api(**webhooks)
    secret = (await api.get("/webhooks/callback-secret")).json()["secret"]
    async with HookReceiver().running() as receiver:
        receiver.answers["/first"] = [500, 204]
        bearer = pb.AuthenticationInfo(scheme="Bearer", credentials="secret")
        push = pb.TaskPushNotificationConfig(url=f"{receiver.origin}/first", token="t-1", authentication=bearer)
        async with connect(api, "scene", binding, push=push) as scene:
            task = (await told(scene.send_message(said("ask", context_id="c"))))[0]["task"]["id"]
            await receiver.has("/first", 1)
            await until(lambda: hurry(sql))
            asked = (await receiver.has("/first", 2))[:2]
            assert len({post.headers["webhook-id"] for post in asked}) == 1
            assert [notified(post, secret)["status"]["state"] for post in asked] == ["TASK_STATE_INPUT_REQUIRED"] * 2
            assert notified(asked[0], secret)["status"]["message"]["parts"][0]["text"] == "Which unit?"
            names = ("x-a2a-notification-token", "authorization", "content-type")
            assert [asked[0].headers[name] for name in names] == ["t-1", "Bearer secret", "application/json"]

            other = pb.TaskPushNotificationConfig(task_id=task, id="other", url=f"{receiver.origin}/other")
            made = await scene.create_task_push_notification_config(other)
            assert (made.id, made.url) == ("other", other.url)
            await receiver.has("/other", 1)  # at once, because the task waits already
            listed = await scene.list_task_push_notification_configs(
                pb.ListTaskPushNotificationConfigsRequest(task_id=task)
            )
            assert [config.id for config in listed.configs] == [task, "other"]
            assert (listed.configs[0].token, listed.configs[0].authentication) == (
                *("t-1", pb.AuthenticationInfo(scheme="Bearer")),
            )
            await scene.delete_task_push_notification_config(
                pb.DeleteTaskPushNotificationConfigRequest(task_id=task, id=task)
            )
            with pytest.raises(errors.TaskNotFoundError):
                await scene.get_task_push_notification_config(
                    pb.GetTaskPushNotificationConfigRequest(task_id=task, id=task)
                )
            reply = said("Celsius", task_id=task, context_id="c")
            reply.configuration.task_push_notification_config.CopyFrom(
                pb.TaskPushNotificationConfig(id="third", url=f"{receiver.origin}/third")
            )
            await told(scene.send_message(reply))
            for path in ("/other", "/third"):
                done = notified((await receiver.has(path, 2 if path == "/other" else 1))[-1], secret)
                assert (done["id"], done["contextId"], done["status"]["state"]) == (task, "c", "TASK_STATE_COMPLETED")
                assert done["artifacts"][0]["parts"] == [{"text": "In Celsius.", "mediaType": "text/plain"}]
            for number in range(8):
                await scene.create_task_push_notification_config(
                    pb.TaskPushNotificationConfig(task_id=task, id=f"{number}", url=f"{receiver.origin}/late")
                )
            with pytest.raises(errors.InvalidParamsError, match="at most 10"):
                await scene.create_task_push_notification_config(
                    pb.TaskPushNotificationConfig(task_id=task, url=f"{receiver.origin}/late")
                )
            await scene.create_task_push_notification_config(other)  # a repeat tells nothing again
            await receiver.has("/late", 8)
            receiver.answers["/gone"] = [410]
            await scene.delete_task_push_notification_config(
                pb.DeleteTaskPushNotificationConfigRequest(task_id=task, id="0")
            )
            gone = pb.TaskPushNotificationConfig(task_id=task, id="gone", url=f"{receiver.origin}/gone")
            await scene.create_task_push_notification_config(gone)
            left = pb.ListTaskPushNotificationConfigsRequest(task_id=task)

            async def ids() -> list[str]:
                return [one.id for one in (await scene.list_task_push_notification_configs(left)).configs]

            await receiver.has("/gone", 1)
            await until(ids, lambda ids: "gone" not in ids)
            assert len(await ids()) == 9
        assert (len(receiver.at("/first")), len(receiver.at("/other"))) == (2, 2)
    assert await sql.fetchval("select count(*) from treadle._violations()") == 0


def notified(post: Received, secret: str) -> dict[str, Any]:
    """The task in a notification, as a receiver verifies and reads it."""
    Webhook(secret).verify(post.body, post.headers)
    return dict(MessageToDict(Parse(post.body, pb.StreamResponse()))["task"])


async def test_the_client_of_npm(apis: list[Client]) -> None:
    told = await play("a2a", url=str(apis[0].base_url).rstrip("/"))
    completed, canceled = pb.TASK_STATE_COMPLETED, pb.TASK_STATE_CANCELED
    for scenes in (told["JSONRPC"], told["HTTP+JSON"]):
        assert (scenes["plain"]["text"], scenes["plain"]["last"]) == ("I look. It is blue.", completed)
        assert scenes["blocking"] == {"text": "right", "last": completed}
        assert (scenes["answered"]["text"], scenes["answered"]["last"]) == ("In Celsius.", completed)
        assert (scenes["cancelled"], scenes["rest"]["last"], scenes["rest"]["text"]) == (canceled, canceled, "I hold. ")
        assert (scenes["listed"], scenes["refused"]) == (1, "TaskNotFoundError")


VERSION = {"A2A-Version": "1.0"}


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
    task = (await rpc(api, "SendMessage", message(), "/a2a/scene", **bearer(ROOT_KEY)))["task"]
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
