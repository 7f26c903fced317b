"""Agents of AutoGen core, with a model that replays: answers, questions for a person, retries and cancellation."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from autogen_agentchat.messages import TextMessage
from autogen_core import (
    ClosureAgent,
    DefaultTopicId,
    MessageContext,
    RoutedAgent,
    TopicId,
    TypeSubscription,
    default_subscription,
    message_handler,
)
from autogen_core.models import UserMessage

from service.db.pool import Connection
from tests.support.autogen_models import ReplayModel
from tests.support.fixture_types import StartWorker
from tests.support.inputs import asked_input, give_input
from tests.support.messages import settled, submit, text, types
from tests.support.waiting import until
from treadle.adapters import Kit, autogen_core_agent
from treadle.testing import FakeContext


@dataclass
class Draft:
    content: str
    by: str = "writer"


@default_subscription
class Writer(RoutedAgent):
    """Asks its model, streams, and hands its draft on."""

    def __init__(self, kit: Kit, model: Any) -> None:
        super().__init__("Writes.")
        self._kit, self._model = kit, model

    @message_handler
    async def write(self, message: TextMessage, ctx: MessageContext) -> Draft:
        answer = await self._model.create(
            [*await self._kit.history(), UserMessage(content=message.content, source=message.source)]
        )
        await self._kit.context.emit(answer.content)
        draft = Draft(answer.content)
        await self.publish_message(draft, TopicId("drafts", "default"))
        return draft


async def two_agents(kit: Kit, model: ReplayModel) -> Any:
    """A writer, and a closure that asks a person about its drafts and publishes the last word."""
    runtime = kit.runtime()
    own = kit.model(model)
    await Writer.register(runtime, "writer", lambda: Writer(kit, own))

    async def ask(agent: Any, message: Draft, ctx: MessageContext) -> None:
        verdict = await kit.context.input({"good?": message.content}, name="verdict")
        await agent.publish_message(Draft(f"{message.content} {verdict}", by="person"), TopicId("output", "default"))

    await ClosureAgent.register_closure(
        runtime, "asker", ask, subscriptions=lambda: [TypeSubscription("drafts", "asker")]
    )
    return runtime


def tasks_of_autogen() -> list[str]:
    return [shown for task in asyncio.all_tasks() if "/autogen_core/" in (shown := repr(task))]


async def test_agents_of_autogen_core_answer_ask_and_retry_at_no_cost(
    sql: Connection, start_worker: StartWorker, private_text: str
) -> None:
    model = ReplayModel("A slogan", ConnectionError("away"), "Another")
    published = autogen_core_agent(
        "asks", lambda kit: two_agents(kit, model), recipient=DefaultTopicId(), max_attempts=1
    )
    await start_worker(published)
    message_id = await submit(sql, private_text, agent="asks", thread_id="t")
    asked = await asked_input(sql, message_id)
    assert asked["question"] == {"good?": "A slogan"}
    await until(tasks_of_autogen, lambda tasks: not tasks)
    await give_input(sql, message_id, "is good", "verdict")
    row = await settled(sql, message_id)
    assert (row["result"], row["attempt"], len(model.asked)) == ("A slogan is good", 2, 1)
    assert await text(sql, message_id) == "A slogan"
    assert "message" in await types(sql, message_id)
    failed = await settled(sql, await submit(sql, "Once more", agent="asks", thread_id="t"))
    assert (failed["state"], "away" in failed["error"]) == ("failed", True)
    assert model.asked[1][:2] == [private_text, "A slogan is good"]


async def test_an_agent_of_autogen_core_answers_directly_and_is_cancelled(
    sql: Connection, start_worker: StartWorker
) -> None:
    context = FakeContext(inputs={"verdict": "yes"}, thread_id="t")
    direct = autogen_core_agent("direct", lambda kit: two_agents(kit, ReplayModel("Mine")), recipient="writer")
    assert await direct(context, "Hi") == "Mine"
    assert [data["content"] for type, data in context.events if type == "message"] == ["Mine yes"]
    silent = autogen_core_agent("silent", lambda kit: kit.runtime(), recipient=DefaultTopicId())
    with pytest.raises(RuntimeError, match="published nothing to a topic of the type output"):
        await silent(FakeContext(), "Hi")

    async def hanging(kit: Kit) -> Any:
        runtime = kit.runtime()

        async def hang(agent: Any, message: TextMessage, ctx: MessageContext) -> None:
            await kit.context.emit("waiting")
            await asyncio.Event().wait()

        await ClosureAgent.register_closure(runtime, "hangs", hang)
        return runtime

    await start_worker(autogen_core_agent("hangs", hanging, recipient="hangs"))
    message_id = await submit(sql, "x", agent="hangs")
    await until(lambda: types(sql, message_id), lambda found: "chunk" in found)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
