"""A later attempt of an AutoGen team continues where the earlier one ended."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken
from autogen_core.models import CreateResult, ModelInfo
from autogen_ext.models.openai import OpenAIChatCompletionClient

from service.db.pool import Connection
from tests.support.autogen_models import CAPABILITIES, ReplayModel, assistant, tool_call, writer_and_critic
from tests.support.fake_openai import FakeOpenAI, Reply
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, text
from tests.support.waiting import wait_for
from tests.support.worker_processes import lose_lease
from treadle import Overloaded
from treadle.adapters import Kit, autogen_agent
from treadle.testing import FakeContext


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streaming"])
async def test_a_retry_repeats_no_finished_model_call(
    sql: Connection, start_worker: StartWorker, streams: bool
) -> None:
    model = ReplayModel("one", "two", RuntimeError("overloaded"), "three", "APPROVE")
    await start_worker(autogen_agent("pair", writer_and_critic(model, model_client_stream=streams)))
    row = await run(sql, "Write.", agent="pair")
    assert (row["state"], row["attempt"], row["result"]) == ("completed", 2, "APPROVE")
    # Two calls, the failed one, the same one again, and the last.
    assert [len(asked) for asked in model.asked] == [2, 3, 4, 4, 5]
    entries = await log(sql, row["message_id"])
    retry = next(number for number, entry in enumerate(entries) if entry.type == "retry")
    assert entries[retry].data["error"] == "RuntimeError: overloaded"
    said = [entry.data["content"] for entry in entries[retry:] if entry.type == "message"]
    assert said == ["Write.", "one", "two", "three", "APPROVE"]
    assert [entry.type for entry in entries].count("step") == 4
    if streams:
        assert await text(sql, row["message_id"]) == "onetwothreeAPPROVE"
    assert row["usage"]["completion_tokens"] == 4  # of all calls, whichever attempt made them


@pytest.mark.parametrize("stores", [True, False], ids=["kit", "bare"])
async def test_the_tokens_of_a_team_that_fails_are_counted(
    sql: Connection, start_worker: StartWorker, stores: bool
) -> None:
    answers = ["one", "two", RuntimeError("broken"), *([] if stores else ["one"]), RuntimeError("broken")]
    model = ReplayModel(*answers)

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(model) if stores else model
        return RoundRobinGroupChat([assistant("a", own), assistant("b", own)], max_turns=4)

    await start_worker(autogen_agent("pair", make))
    row = await run(sql, "Write.", agent="pair", max_attempts=2)
    assert (row["state"], row["attempt"]) == ("failed", 2)
    assert row["usage"]["completion_tokens"] == (2 if stores else 3)


async def test_tokens_that_a_team_does_not_tell_hide_no_others(sql: Connection, start_worker: StartWorker) -> None:
    """As those of the model that chooses the next speaker."""
    chooses, speaks = ReplayModel("a", "b"), ReplayModel("one", "two")

    def make(kit: Kit) -> SelectorGroupChat:
        speakers: list[Any] = [assistant(name, speaks) for name in ("a", "b")]
        return SelectorGroupChat(speakers, model_client=kit.model(chooses), max_turns=2, allow_repeated_speaker=True)

    await start_worker(autogen_agent("pair", make))
    row = await run(sql, "Write.", agent="pair")
    assert (row["state"], row["result"]) == ("completed", "two"), row["error"]
    assert row["usage"]["completion_tokens"] == 4


async def test_an_answer_that_cannot_be_stored_is_paid_for_once(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("x" * 2000, "APPROVE", "APPROVE")
    await start_worker(autogen_agent("pair", writer_and_critic(model)), max_event_bytes=1000)
    row = await run(sql, "Write.", agent="pair")
    assert (row["state"], row["attempt"], len(model.asked)) == ("failed", 1, 1)
    assert "a step has at most 1000 bytes (MAX_EVENT_BYTES)" in row["error"]


async def test_a_new_attempt_continues_a_lost_one(sql: Connection, start_worker: StartWorker) -> None:
    """max_turns counts the turns of both attempts."""
    reached, go = asyncio.Event(), asyncio.Event()
    model = ReplayModel("one", "two", "three", "four")

    class Slow(ReplayModel):
        async def create(self, messages: Sequence[Any], **options: Any) -> CreateResult:
            if len(model.asked) == 2 and not reached.is_set():
                reached.set()
                await go.wait()
            return await model.create(messages, **options)

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(Slow())
        return RoundRobinGroupChat([assistant("a", own), assistant("b", own)], max_turns=3)

    await start_worker(autogen_agent("turns", make))
    message_id = await submit(sql, "Go.", agent="turns")
    await wait_for(reached)
    await lose_lease(sql, message_id)
    row = await settled(sql, message_id)
    assert (row["state"], row["attempt"], row["result"]) == ("completed", 2, "three")
    assert len(model.asked) == 3


async def test_a_tool_runs_once(sql: Connection, start_worker: StartWorker) -> None:
    ran: list[str] = []

    async def book(city: str, cancellation_token: CancellationToken) -> dict[str, str]:
        """Books a table."""
        ran.append(city)
        return {"booked": city}

    def look(city: str) -> str:
        """Looks."""
        ran.append(f"look {city}")
        return city

    def make(kit: Kit) -> AssistantAgent:
        tools = [kit.tool(book), kit.tool(look)]
        assert [tool.__name__ for tool in tools] == ["book", "look"]
        return assistant("host", kit.model(model), tools=tools, reflect_on_tool_use=True, max_tool_iterations=3)

    model = ReplayModel(
        tool_call("book", '{"city": "Rome"}'),
        tool_call("look", '{"city": "Rome"}'),
        RuntimeError("at first"),
        "Booked.",
    )
    await start_worker(autogen_agent("host", make))
    row = await run(sql, "Book.", agent="host")
    assert (row["state"], row["attempt"], row["result"], ran) == ("completed", 2, "Booked.", ["Rome", "look Rome"])
    entries = await log(sql, row["message_id"])
    assert [entry.data["name"].split()[0] for entry in entries if entry.type == "step"] == [
        *("model", "tool", "model", "tool", "model")
    ]


async def test_two_equal_calls_are_two_steps(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("heads", "tails", RuntimeError("at first"), "edge")

    class Twice(AssistantAgent):
        async def on_messages(self, messages: Sequence[BaseChatMessage], token: CancellationToken) -> Response:
            found = [(await self._model_client.create([])).content for _ in range(3)]
            return Response(chat_message=TextMessage(content=" ".join(map(str, found)), source=self.name))

        async def on_messages_stream(
            self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
        ) -> AsyncGenerator[Any, None]:
            yield await self.on_messages(messages, cancellation_token)

    await start_worker(autogen_agent("coin", lambda kit: Twice("coin", kit.model(model))))
    row = await run(sql, "Toss.", agent="coin")
    assert (row["attempt"], row["result"], len(model.asked)) == (2, "heads tails edge", 4)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=429, message="Slow down"), Overloaded),
        (Reply(status=503), Overloaded),
        (
            Reply(status=429, message="You exceeded your quota, please check your plan and billing details."),
            RuntimeError,
        ),
        (Reply(status=400, message="Error code: 429"), RuntimeError),
        (Reply(status=500), RuntimeError),
    ],
)
async def test_the_overload_of_a_model_without_the_kit_is_read_from_its_text(
    reply: Reply, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeOpenAI().running() as fake:
        client = OpenAIChatCompletionClient(
            model="m", api_key="x", base_url=fake.url, max_retries=0, model_info=ModelInfo(**CAPABILITIES)
        )
        fake.script.append(reply)
        team = autogen_agent("pair", lambda kit: RoundRobinGroupChat([AssistantAgent("writer", client)], max_turns=1))
        with pytest.raises(kind) as raised:
            await team(FakeContext(), "Hi")
        assert type(raised.value) is kind
