"""Unmodified clients of A2A, AG-UI and MCP, and Treadle's own, whose replica or worker is killed (kill -9) while an
answer streams. (The clients of OpenAI's APIs: test_openai_frameworks.py; those of LangGraph's:
tests/faults/test_kills.py.)"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import websockets
from a2a.client import ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import UnsupportedOperationError
from google.protobuf.json_format import MessageToDict

from service.config import Settings
from service.db.pool import Connection
from tests.support.invariants import assert_consistent
from tests.support.node_client import play
from tests.support.ports import is_listening
from tests.support.repository import ROOT
from tests.support.stage import Stage, staged
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from treadle import AsyncClient

OF_NODE = {f"{name} {scene}" for name in ("agui", "js") for scene in ("replica", "lost")}
SEEN = "select array_agg(user_message #>> '{}') from treadle.message_overview where agent = 'seen'"
Follow = Callable[[str, str, asyncio.Event], Awaitable[Any]]


async def a2a(url: str, text: str, seen: asyncio.Event) -> Any:
    """An application subscribes to the task again where the stream breaks, or gets it, if it is over by then."""
    message = pb.Message(message_id=uuid.uuid4().hex, role="ROLE_USER", parts=[pb.Part(text=text)])
    task, said, breaks = "", "", 0
    while True:
        async with contextlib.AsyncExitStack() as stack:
            # By default, a silence of five seconds is a break.
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=LIMIT_SECONDS))
            factory = ClientFactory(ClientConfig(httpx_client=http))
            client = await stack.enter_async_context(await factory.create_from_url(f"{url}/a2a/stage"))
            asked = pb.SendMessageRequest(message=message)
            try:
                events = client.subscribe(pb.SubscribeToTaskRequest(id=task)) if task else client.send_message(asked)
                async for event in events:
                    told = MessageToDict(event)
                    task = told.get("task", {}).get("id", task)
                    update = told.get("artifactUpdate", {})
                    artifacts = [update["artifact"]] if update else told.get("task", {}).get("artifacts", [])
                    piece = "".join(part["text"] for artifact in artifacts for part in artifact["parts"])
                    said = said + piece if update.get("append") else piece or said
                    if said:
                        seen.set()
                return breaks, said
            except UnsupportedOperationError:
                over = MessageToDict(await client.get_task(pb.GetTaskRequest(id=task)))
                return breaks, over["artifacts"][0]["parts"][0]["text"]
            except A2AClientError:
                breaks += 1


async def mcp(url: str, text: str, seen: asyncio.Event) -> Any:
    """The client comes back by itself."""
    from mcp import Client

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        if message:
            seen.set()

    async with Client(f"{url}/mcp") as client:
        result: Any = await client.call_tool("stage", {"message": text}, progress_callback=hear)
    return result.is_error, result.content[0].text


async def python(url: str, text: str, seen: asyncio.Event) -> Any:
    """The client comes back by itself."""
    ids, said = [], ""
    async with AsyncClient(url) as client:
        message = await client.submit(text, agent="stage")
        async for event in client.stream(message.message_id):
            ids += [int(event.id)] if event.id else []
            said = "" if event.type == "retry" else said + event.text
            if event.text:
                seen.set()
    return ids == list(range(1, len(ids) + 1)), said


async def queue_socket(url: str, text: str, seen: asyncio.Event) -> Any:
    """A page connects again with the last id."""
    last, said, breaks = 0, "", -1
    address = f"{url.replace('http', 'ws')}/ws/chat/queue?agent=stage&session_id={text.replace(' ', '-')}"
    while True:
        breaks += 1
        with contextlib.suppress(OSError, websockets.WebSocketException):
            async with websockets.connect(f"{address}&last_event_id={last}", open_timeout=LIMIT_SECONDS) as socket:
                if last == 0:
                    await socket.send(json.dumps({"content": text, "source": "user", "type": "TextMessage"}))
                async for frame in socket:
                    told = json.loads(frame)
                    last = max(last, told.get("id", 0))
                    if told["type"] == "ModelClientStreamingChunkEvent":
                        said += told["content"]
                        seen.set()
                    if told["type"] == "retry":
                        said = ""
                    if told["type"] == "TextMessage" and told["source"] == "stage":
                        return breaks, said
        await until(lambda: is_listening(urlsplit(url).port or 0))


CLIENTS: dict[str, tuple[Follow, Any, Any]] = {  # and what they tell after a killed replica, and a killed worker
    "a2a": (a2a, (1, "one two"), (0, "one two")),
    "mcp": (mcp, (False, "one two"), (False, "one two")),
    "python": (python, (True, "one two"), (True, "one two")),
    "socket": (queue_socket, (1, "one two"), (0, "one two")),
}


@pytest.mark.long
async def test_streams_go_on_after_killed_replicas_and_workers(
    settings: Settings, sql: Connection, tmp_path: Path
) -> None:
    async with staged(sql, settings, tmp_path) as stage:
        doomed = await stage.start_worker()
        scenes = {(name, scene): asyncio.Event() for name in CLIENTS for scene in ("replica", "lost")}
        js = asyncio.ensure_future(play("kills", url=stage.url, replica=stage.replica, module=_typescript()))
        followed = asyncio.gather(
            *(CLIENTS[name][0](*_place(stage, name, scene), scenes[name, scene]) for name, scene in scenes)
        )
        for event in scenes.values():
            await wait_for(event)
        await until(lambda: sql.fetchval(SEEN), lambda seen: set(seen or ()) >= OF_NODE)
        stage.kill_api()
        await stage.let_end("replica")
        await stage.start_worker()
        await stage.kill_worker(doomed)
        found = dict(zip(scenes, await followed, strict=True))
        for name, (_, replica, lost) in CLIENTS.items():
            assert (found[name, "replica"], found[name, "lost"]) == (replica, lost), name
        told = await js
        assert told["agui"] == [["broken", "success", "one two"], ["success", "one two"]]
        assert told["js"] == [[True, "one two"]] * 2
        assert await sql.fetchval("select count(*) from treadle.messages where losses = 1") == len(CLIENTS) + 2
    await assert_consistent(sql)


def _place(stage: Stage, name: str, scene: str) -> tuple[str, str]:
    return stage.replica if scene == "replica" else stage.url, f"{name} {scene}"


def _typescript() -> str:
    return (ROOT / "clients/typescript/lib/index.js").as_uri()
