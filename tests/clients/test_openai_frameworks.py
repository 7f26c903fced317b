"""Unmodified clients of npm and frameworks of Python on top of OpenAI's API, all at once: while their answers stream,
their connections are cut, their replica and their worker are killed, and their messages are cancelled."""

import asyncio
import contextlib
import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import openresponses_types
import pytest
from openai import AsyncOpenAI

from service.config import Settings
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.invariants import assert_consistent
from tests.support.node_client import play
from tests.support.openai_frameworks import Framework, all_frameworks, close_clients
from tests.support.stage import Stage, staged
from tests.support.waiting import until, wait_for

OF_NODE = ("openai", "openai-chat", "ai", "ai-chat", "use-chat")
STREAMED = {  # by scene: whether the stream breaks, its text, and the text of the request that is repeated
    "plain": [False, "one two"],
    "cut": [True, "one ", "one two"],
    "replica": [True, "one ", "one two"],
    "lost": [False, "one two"],
    "cancel": [True, "one "],
}
WAITING = [scene for scene in STREAMED if scene != "plain"]  # for what the test does to them
SECOND_TURN = [["a", '[[],null,"a"]']]
BY_TEXT = "select user_message #>> '{}' as text, message_id from treadle.message_overview where agent = $1"


async def scenes(
    seen: defaultdict[str, asyncio.Event], name: str, framework: Framework, stage: Stage
) -> dict[str, list[Any]]:
    """As `scenes` of openai.mjs plays them."""
    bases = {"cut": stage.cut, "replica": stage.replica}

    async def follow(scene: str) -> list[Any]:
        said, text = "", f"{name} {scene}"
        try:
            stream = framework.stream(bases.get(scene, stage.url), text, text.replace(" ", "-"))
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    said += delta
                    seen[text].set()
        except Exception:
            return [True, said]
        return [False, said]

    found = await asyncio.gather(*(follow(scene) for scene in STREAMED))
    told = dict(zip(STREAMED, found, strict=True))
    for scene in bases:
        told[scene].append((await follow(scene))[1])
    return told


@pytest.mark.long
async def test_frameworks_survive_cuts_killed_workers_and_killed_replicas(
    settings: Settings, sql: Connection, tmp_path: Path
) -> None:
    seen: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    frameworks = all_frameworks()
    async with staged(sql, settings, tmp_path) as stage, contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(close_clients)
        doomed = await stage.start_worker()
        url = stage.url
        playing = asyncio.gather(
            play("openai", url=url, cut=stage.cut, replica=stage.replica),
            *(scenes(seen, name, framework, stage) for name, framework in frameworks.items()),
        )
        for name in frameworks:
            for scene in WAITING:
                await wait_for(seen[f"{name} {scene}"])
        of_node = {"rest cut", *(f"{name} {scene}" for name in OF_NODE for scene in WAITING)}
        await until(lambda: ids_of(sql, "seen"), lambda found: found.keys() >= of_node)
        messages = len(STREAMED) * (len(frameworks) + len(OF_NODE)) + 1  # and that of `rest`
        ids = await until(lambda: ids_of(sql, "stage"), lambda found: len(found) == messages)
        stage.cut_connections()
        stage.kill_api()
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
            for text, message_id in ids.items():
                if text.endswith("cancel"):
                    cancelled = await client.responses.cancel(f"resp_{message_id.hex}")
                    # The answer to a cancel waits for its effect, but not for long.
                    retrieve = functools.partial(client.responses.retrieve, cancelled.id)
                    await until(retrieve, lambda found: found.status == "cancelled")
        await stage.let_end("cut", "replica")
        await stage.start_worker()
        await stage.kill_worker(doomed)
        js, *found = await playing
        told = js["scenes"] | dict(zip(frameworks, found, strict=True))
        assert told == dict.fromkeys(told, STREAMED)
        assert js["rest"] == {"broken": True, "same": True, "text": "one two"}
        # Repeated requests made no further messages.
        count = "select count(*) from treadle.message_overview where agent = 'stage'"
        assert (await sql.fetchval(count), len(told)) == (messages, len(frameworks) + len(OF_NODE))
        losses = "select count(*) from treadle.messages where losses = 1"
        assert await sql.fetchval(losses) == len(told)
        tools = [*js["tools"], *[await framework.tools(url) for framework in frameworks.values()]]
        assert tools == ["Sun in Rome"] * len(tools)
        turns = [*js["turns"], *[await framework.turns(url) for framework in frameworks.values()]]
        assert [json.loads(turn)[0] for turn in turns] == [SECOND_TURN] * len(turns)
        for message_id in ids.values():
            await validate(stage.api, f"resp_{message_id.hex}")
    await assert_consistent(sql)


async def ids_of(sql: Connection, agent: str) -> dict[str, Any]:
    return {row["text"]: row["message_id"] for row in await sql.fetch(BY_TEXT, agent)}


async def validate(api: Client, response_id: str) -> None:
    """By the models of the Open Responses specification."""
    answer = await api.get(f"/v1/responses/{response_id}")
    openresponses_types.ResponseResource.model_validate(answer.json())
    stream = await api.get(f"/v1/responses/{response_id}?stream=true")
    events = [json.loads(line.removeprefix("data: ")) for line in stream.text.splitlines() if line.startswith("data: ")]
    for event in events:
        EVENTS[event["type"]].model_validate(event)
    assert [event["sequence_number"] for event in events] == sorted({event["sequence_number"] for event in events})


def _by_type() -> dict[str, Any]:
    models = [model for name, model in vars(openresponses_types).items() if name.endswith("StreamingEvent")]
    return {next(iter(model.model_fields["type"].annotation)).value: model for model in models}


EVENTS = _by_type()
