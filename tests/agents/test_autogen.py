"""AutoGen teams as agents, with a model that replays answers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken
from autogen_core.model_context import UnboundedChatCompletionContext
from pydantic import BaseModel

from service.agents.adapters.autogen.runner import NEEDS_KIT_USER
from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.autogen_models import ReplayModel, assistant, tool_call, writer_and_critic
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, text, types
from tests.support.waiting import until, wait_for
from treadle import Context
from treadle.adapters import Kit, autogen_agent
from treadle.testing import FakeContext


async def test_the_messages_of_a_team_are_events(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("A red bicycle", "Make it shorter", "A bike", "APPROVE")
    await start_worker(autogen_agent("pair", writer_and_critic(model, model_client_stream=True)))
    row = await run(sql, "Write.", agent="pair")
    assert (row["state"], row["result"]) == ("completed", "APPROVE")
    entries = await log(sql, row["message_id"])
    assert [entry.data for entry in entries if entry.type == "message"] == [
        {"source": source, "type": "TextMessage", "content": content}
        for source, content in (
            ("user", "Write."),
            ("writer", "A red bicycle"),
            ("critic", "Make it shorter"),
            ("writer", "A bike"),
            ("critic", "APPROVE"),
        )
    ]
    # A step is in the log when the model has answered, its message when the team passes it on.
    assert [entry.type for entry in entries].count("step") == 4
    story = [entry.data["chunk"] if entry.type == "chunk" else entry.type for entry in entries if entry.type != "step"]
    assert story == [
        *("queued", "started", "message"),
        *("A ", "red ", "bicycle", "message"),
        *("Make ", "it ", "shorter", "message"),
        *("A ", "bike", "message"),
        *("APPROVE", "message", "done"),
    ]
    assert row["usage"]["completion_tokens"] == 3 + 3 + 2 + 1
    assert "APPROVE" in row["usage"]["stop_reason"]


async def test_only_the_tokens_of_the_speakers_are_streamed(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("A bike", "APPROVE")
    await start_worker(autogen_agent("pair", writer_and_critic(model, model_client_stream=True), speakers={"writer"}))
    row = await run(sql, "Write.", agent="pair")
    assert await text(sql, row["message_id"]) == "A bike"


async def test_a_single_agent_and_its_tools(sql: Connection, start_worker: StartWorker) -> None:
    async def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    def make(kit: Kit) -> AssistantAgent:
        return assistant("adder", model, tools=[add], reflect_on_tool_use=True)

    model = ReplayModel(tool_call("add", '{"a": 1, "b": 2}'), "It is 3.")
    await start_worker(autogen_agent("adder", make))
    row = await run(sql, {"content": "1 + 2", "source": "Ada"}, agent="adder")
    assert row["result"] == "It is 3."
    entries = await log(sql, row["message_id"])
    assert [entry.data for entry in entries if entry.type == "tool"] == [
        {"id": "c1", "name": "add", "source": "adder", "input": {"a": 1, "b": 2}},
        {"id": "c1", "name": "add", "source": "adder", "output": "3"},
    ]
    assert [entry.data["source"] for entry in entries if entry.type == "message"] == ["Ada", "adder"]


async def test_data_too_large_for_an_event_are_left_out(sql: Connection, start_worker: StartWorker) -> None:
    async def much() -> str:
        """Much."""
        return "x" * 1000

    model = ReplayModel(tool_call("much", "{}"), "y" * 1000)
    make = autogen_agent(
        "much",
        lambda kit: assistant("teller", model, tools=[much], reflect_on_tool_use=True),
        output=lambda result: len(result.messages[-1].content),
    )
    await start_worker(make, max_event_bytes=999)
    row = await run(sql, "Tell.", agent="much")
    assert row["result"] == 1000
    told = [entry.data for entry in await log(sql, row["message_id"]) if "omitted" in (entry.data or {})]
    omitted = {"source": "teller", "omitted": "larger than an event may be"}
    assert told == [{"id": "c1", "name": "much", **omitted}, {"type": "TextMessage", **omitted}]


class Verdict(BaseModel):
    good: bool
    why: str


async def test_a_structured_answer_is_an_object(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel('{"good": true, "why": "short"}')

    async def make(kit: Kit) -> AssistantAgent:
        return assistant("judge", kit.model(model), output_content_type=Verdict)

    await start_worker(autogen_agent("judge", make))
    row = await run(sql, "Judge.", agent="judge")
    assert row["result"] == {"good": True, "why": "short"}
    entries = await log(sql, row["message_id"])
    assert entries[-2].data["content"] == {"good": True, "why": "short"}


class Order(msgspec.Struct):
    lines: list[str]


async def test_input_and_output_functions_are_used(sql: Connection, start_worker: StartWorker) -> None:
    async def task(context: Context, order: Order) -> Any:
        return [TextMessage(content=line, source="user") for line in order.lines]

    model = ReplayModel("APPROVE")
    team = autogen_agent(
        "pair",
        writer_and_critic(model),
        input=task,
        output=lambda result: len(result.messages),
        timeout=9,
        max_attempts=1,
    )
    await start_worker(team)
    row = await run(sql, {"lines": ["a", "b"]}, agent="pair")
    assert row["result"] == 3
    assert (team.input_type, team.limits.timeout, team.limits.max_attempts) == (Order, 9, 1)


async def test_kit_history_has_the_threads_exchanges(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("first answer", "second answer")

    async def make(kit: Kit) -> AssistantAgent:
        memory = UnboundedChatCompletionContext(initial_messages=await kit.history())
        return assistant("one", kit.model(model), model_context=memory)

    await start_worker(autogen_agent("one", make), echo)
    await run(sql, "first", agent="one", thread_id="t")
    await run(sql, "echoed", agent="echo", thread_id="t")
    await run(sql, {"content": "third"}, agent="one", thread_id="t")
    assert model.asked[-1] == ["You are one.", "first", "first answer", "echoed", "echoed", "third"]


async def test_kit_history_has_a_budget() -> None:
    context: Any = FakeContext(history=[("x" * 400, "old"), ("y" * 200, "new"), ("z", "newest")])
    messages = await Kit(context).history(max_tokens=100)
    assert [str(message.content)[:6] for message in messages] == ["yyyyyy", "new", "z", "newest"]
    assert [message.content for message in await Kit(context).history(1)] == ["z", "newest"]


# Errors and cancellation


async def test_the_error_of_a_model_becomes_the_error_of_the_message(
    sql: Connection, start_worker: StartWorker
) -> None:
    class Answer:
        headers = {"retry-after": "1000"}  # noqa: RUF012, a fake of an SDK's

    class RateLimitError(Exception):
        response = Answer()

    await start_worker(autogen_agent("pair", writer_and_critic(ReplayModel("one", RateLimitError("slow down")))))
    message_id = await submit(sql, "Hi", agent="pair")
    await until(lambda: types(sql, message_id), lambda found: "retry" in found)
    retry = (await log(sql, message_id))[-1]
    assert retry.data["error"] == "RateLimitError: slow down"
    wait = msgspec.convert(retry.data["retry_at"], type=type(retry.created_at)) - retry.created_at
    assert abs(wait.total_seconds() - 1000) < 2


async def test_the_error_of_an_agent_is_one_line(sql: Connection, start_worker: StartWorker) -> None:
    def make(kit: Kit) -> RoundRobinGroupChat:
        return RoundRobinGroupChat([assistant("a", ReplayModel(ValueError("no")))])

    await start_worker(autogen_agent("fails", make, max_attempts=1))
    row = await run(sql, "Hi", agent="fails")
    assert (row["state"], row["error"]) == ("failed", "RuntimeError: ValueError: no")


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds", "ignores"])
async def test_a_team_that_asks_a_person_without_the_kit_is_rejected(
    sql: Connection, start_worker: StartWorker, heeds: bool
) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def ask(prompt: str, token: CancellationToken | None) -> str:
        waiting = asyncio.ensure_future(asked.wait())
        if heeds and token:
            token.link_future(waiting)
        try:
            await waiting
        finally:
            ended.set()
        return "I"

    def make(kit: Kit) -> RoundRobinGroupChat:
        return RoundRobinGroupChat([UserProxyAgent("person", input_func=ask)], max_turns=1)

    await start_worker(autogen_agent("asks", make))
    row = await run(sql, "Hi", agent="asks")
    assert (row["state"], row["attempt"], row["error"]) == ("failed", 1, NEEDS_KIT_USER.format("person"))
    asked.set()
    await wait_for(ended)  # the team's agent, which may ignore its cancellation, ends after the message


@pytest.mark.parametrize("alone", [False, True], ids=["team", "agent"])
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("steps", [False, True], ids=["bare", "steps"])
async def test_cancelling_ends_the_call(
    sql: Connection, start_worker: StartWorker, alone: bool, streams: bool, steps: bool
) -> None:
    inside, ended = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        try:
            inside.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def waiting(options: Any) -> None:
        token = options.get("cancellation_token")
        call = asyncio.ensure_future(wait())
        await (token.link_future(call) if token else call)  # the selector of the next speaker passes no token

    class Endless(ReplayModel):
        async def create(self, messages: Sequence[Any], **options: Any) -> Any:
            await waiting(options)

        async def create_stream(self, messages: Sequence[Any], **options: Any) -> AsyncGenerator[Any, None]:
            yield "so "
            await waiting(options)

    def make(kit: Kit) -> Any:
        model = kit.model(Endless()) if steps else Endless()
        members: list[Any] = [assistant(name, model, model_client_stream=streams) for name in ("a", "b")]
        return (
            members[0] if alone else SelectorGroupChat(members, model, termination_condition=MaxMessageTermination(9))
        )

    await start_worker(autogen_agent("endless", make))
    message_id = await submit(sql, "Hi", agent="endless")
    await wait_for(inside)
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await wait_for(ended)
