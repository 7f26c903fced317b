"""Unmodified clients of npm and frameworks of Python on top of OpenAI's API, all at once: while their answers stream,
their connections are cut and their replica is gone, their workers are lost, and their messages are cancelled."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import openresponses_types
import pytest
from openai import AsyncOpenAI

from faults.proxy import Proxy
from service.db.pool import Connection
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.invariants import assert_consistent
from tests.support.node_client import play
from tests.support.openai_agents import openai_agents
from tests.support.openai_frameworks import Framework, all_frameworks, close_clients
from tests.support.waiting import wait_for
from tests.support.worker_processes import lose_lease
from treadle import Agent, Context, agent

OF_NODE = ("openai", "openai-chat", "ai", "ai-chat", "use-chat")
STREAMED = {  # by scene: whether the stream breaks, its text, and the text of the request that is repeated
    "plain": [False, "one two"],
    "cut": [True, "one ", "one two"],
    "lost": [False, "one two"],
    "cancel": [True, "one "],
}
SECOND_TURN = [["a", '[[],null,"a"]']]
BY_TEXT = "select user_message #>> '{}' as text, message_id from treadle.message_overview where agent = 'stage'"


class Stage:
    """An agent whose first attempt stops in the middle of each answer until the test opens the gate of its text."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    @property
    def agents(self) -> list[Agent]:
        @agent("stage", max_losses=2)
        async def stage(context: Context, text: str) -> str:
            """Says one two."""
            await context.emit("one ")
            if context.attempt == 1 and not text.endswith("plain"):
                await self.gates[text].wait()
            await context.emit("two")
            return "one two"

        @agent("seen")
        async def seen(context: Context, text: str) -> None:
            """A program of Node tells that its stream has begun."""
            self.seen[text].set()

        @agent("tourist")
        async def tourist(context: Context, city: str) -> str:
            """Asks its client for the weather."""
            [sky] = await context.input({"function_calls": [{"name": "get_weather", "arguments": {"city": city}}]})
            return f"{sky} in {city}"

        return [stage, seen, tourist, *openai_agents()]


async def scenes(stage: Stage, name: str, framework: Framework, url: str, cut: str) -> dict[str, Any]:
    """As `scenes` of openai.mjs plays them."""

    async def follow(base: str, text: str) -> list[Any]:
        said = ""
        try:
            async with contextlib.aclosing(framework.stream(base, text, text.replace(" ", "-"))) as stream:
                async for delta in stream:
                    said += delta
                    stage.seen[text].set()
        except Exception:
            return [True, said]
        return [False, said]

    found = await asyncio.gather(*(follow(cut if scene == "cut" else url, f"{name} {scene}") for scene in STREAMED))
    told = dict(zip(STREAMED, found, strict=True))
    told["cut"].append((await follow(cut, f"{name} cut"))[1])
    return told


@pytest.fixture
async def apis(start_api: StartApi) -> AsyncIterator[list[Client]]:
    yield [await start_api(), await start_api()]
    await close_clients()


@pytest.fixture
async def proxy(apis: list[Client]) -> AsyncIterator[Proxy]:
    found = Proxy(apis[0].base_url.port or 0)
    await found.start()
    yield found
    await found.close()


@pytest.mark.long
async def test_frameworks_survive_cuts_lost_workers_and_dead_replicas(
    apis: list[Client], proxy: Proxy, start_worker: StartWorker, sql: Connection
) -> None:
    stage = Stage()
    await start_worker(*stage.agents, worker_concurrency=200)
    frameworks = all_frameworks()
    url, cut = str(apis[0].base_url), f"http://127.0.0.1:{proxy.port}"
    playing = asyncio.gather(
        play("openai", url=url, cut=cut),
        *(scenes(stage, name, framework, url, cut) for name, framework in frameworks.items()),
    )
    texts = [
        "rest cut",
        *(f"{name} {scene}" for name in (*OF_NODE, *frameworks) for scene in ("cut", "lost", "cancel")),
    ]
    for text in texts:
        await wait_for(stage.seen[text])
    ids = {row["text"]: row["message_id"] for row in await sql.fetch(BY_TEXT)}
    proxy.target = apis[1].base_url.port or 0
    proxy.cut()
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        for text in texts:
            if text.endswith("cancel"):
                cancelled = await client.responses.cancel(f"resp_{ids[text].hex}")
                assert cancelled.status == "cancelled"
            elif text.endswith("lost"):
                await lose_lease(sql, ids[text])
            else:
                stage.gates[text].set()
    js, *found = await playing
    told = js["scenes"] | dict(zip(frameworks, found, strict=True))
    assert told == dict.fromkeys(told, STREAMED)
    assert js["rest"] == {"broken": True, "same": True, "text": "one two"}
    # Repeated requests made no further messages.
    assert len(await sql.fetch(BY_TEXT)) == len(ids) == 4 * len(told) + 1
    tools = [*js["tools"], *[await framework.tools(url) for framework in frameworks.values()]]
    assert tools == ["Sun in Rome"] * len(tools)
    turns = [*js["turns"], *[await framework.turns(url) for framework in frameworks.values()]]
    assert [json.loads(turn)[0] for turn in turns] == [SECOND_TURN] * len(turns)
    for message_id in ids.values():
        await validate(apis[1], f"resp_{message_id.hex}")
    await assert_consistent(sql)


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
