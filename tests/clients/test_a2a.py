"""A2A 1.0 under /a2a, with the unmodified clients of PyPI and npm."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils import errors
from google.protobuf.json_format import MessageToDict, Parse
from standardwebhooks import Webhook

from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.dialect_agents import scene_agent
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.hook_receiver import HookReceiver, Received, hurry
from tests.support.node_client import play
from tests.support.scripted_agent import ScriptedAgent
from tests.support.waiting import LIMIT_SECONDS, until
from tests.support.worker_processes import lose_lease

RUN = [("JSONRPC", True), ("JSONRPC", False), ("HTTP+JSON", True), ("HTTP+JSON", False)]


@pytest.fixture
async def apis(start_api: StartApi, start_worker: StartWorker, script: ScriptedAgent) -> list[Client]:
    await start_worker(script.agent, scene_agent())
    return [await start_api(), await start_api()]


@contextlib.asynccontextmanager
async def connect(
    api: Client, agent: str, binding: str = "JSONRPC", *, streaming: bool = True, push: Any = None
) -> AsyncIterator[Any]:
    async with httpx.AsyncClient(timeout=LIMIT_SECONDS) as http:
        config = ClientConfig(
            httpx_client=http,
            supported_protocol_bindings=[binding],
            streaming=streaming,
            push_notification_config=push,
        )
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
            # In another five seconds it is tried again in any case.
            await until(lambda: hurry(sql), lambda hurried: hurried or len(receiver.at("/first")) > 1)
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
