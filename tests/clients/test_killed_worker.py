"""A worker process that is killed: what clients of A2A and AG-UI follow goes on, and deliveries are made again."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi
from tests.support.hook_receiver import HookReceiver
from tests.support.waiting import wait_for
from tests.support.worker_processes import WorkerProcesses

ENVIRON = {"WEBHOOK_NETWORKS": "127.0.0.0/8", "WEBHOOK_HTTP": "true", "WEBHOOK_CONCURRENCY": "5"}


class Followed:
    """A stream that a client follows."""

    def __init__(self, api: Client, path: str, body: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read(api, path, body))
        self._emitted = asyncio.Event()

    async def _read(self, api: Client, path: str, body: Any) -> None:
        async with api.stream("POST", path, json=body, headers={"A2A-Version": "1.0"}) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.events.append(json.loads(line.removeprefix("data: ")))
                    if "attempt 1" in line:
                        self._emitted.set()

    async def has_emitted(self) -> None:
        await wait_for(self._emitted)

    async def end(self) -> list[dict[str, Any]]:
        await self._reading
        return self.events


async def test_clients_and_receivers_get_the_same_of_another_worker(
    settings: Settings, start_api: StartApi, sql: Connection, tmp_path: Path
) -> None:
    api = await start_api(webhook_networks=("127.0.0.0/8",), webhook_http=True)
    processes = WorkerProcesses(settings, tmp_path / "log")
    async with HookReceiver().running() as receiver:
        try:
            doomed = await processes.start(sql, **ENVIRON)
            receiver.answers = {"/hook": [0, 204], "/push": [0, 204]}
            hook = {"url": f"{receiver.origin}/hook", "agents": ["total"]}
            assert (await api.post("/webhooks", json=hook)).status_code == 201
            push = {"url": f"{receiver.origin}/push", "token": "t"}
            message = {"messageId": uuid.uuid4().hex, "role": "ROLE_USER", "parts": [{"text": "go"}]}
            total: dict[str, Any] = {"message": message | {"parts": [{"data": {"customer": "Ada", "cents": [1]}}]}}
            total["configuration"] = {"taskPushNotificationConfig": push}
            told = await api.post("/a2a/total/message:send", json=total, headers={"A2A-Version": "1.0"})
            assert told.status_code == 200, told.text
            run = {"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "user", "content": "go"}]}
            task = Followed(api, "/a2a/outlives/message:stream", {"message": message})
            agui = Followed(api, "/agui/outlives", run)
            for at_work in (receiver.has("/hook", 1), receiver.has("/push", 1), task.has_emitted(), agui.has_emitted()):
                await at_work
            await processes.start(sql, **ENVIRON)
            doomed.kill()
            deliveries = [await receiver.has(path, 2) for path in ("/hook", "/push")]
            seen, ran = await task.end(), await agui.end()
        finally:
            processes.end()
    for first, second in deliveries:
        assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
        assert first.headers["webhook-timestamp"]
    states = [event["statusUpdate"]["status"]["state"] for event in seen if "statusUpdate" in event]
    assert [state.removeprefix("TASK_STATE_") for state in states][-3:] == ["SUBMITTED", "WORKING", "COMPLETED"]
    pieces = [event["artifactUpdate"] for event in seen if "artifactUpdate" in event]
    assert (pieces[-1]["append"], pieces[-1]["artifact"]["parts"][0]["text"]) == (False, "attempt 2")
    assert (ran[-1]["type"], ran[-1]["outcome"]) == ("RUN_FINISHED", {"type": "success"})
    [answer] = [event for event in ran if event["type"] == "MESSAGES_SNAPSHOT"]
    assert [message["content"] for message in answer["messages"]] == ["go", "attempt 2"]
