"""AutoGen teams as agents, with a model that replays answers."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
import pytest
from autogen_agentchat.agents import AssistantAgent, UserProxyAgent
from autogen_agentchat.base import Response
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat, SelectorGroupChat
from autogen_core import CancellationToken, FunctionCall
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import CreateResult, RequestUsage
from pydantic import BaseModel

from service.agents.adapters.autogen.runner import NEEDS_KIT_USER
from service.agents.builtin.echo import echo
from service.db.pool import Connection
from tests.support.autogen_models import ReplayModel, assistant
from tests.support.fixture_types import StartWorker
from tests.support.messages import log, run, settled, submit, text, types
from tests.support.waiting import until, wait_for
from tests.support.worker_processes import lose_lease
from treadle import Context
from treadle.adapters import Kit, autogen_agent


def calls(name: str, arguments: str) -> CreateResult:
    """A model's call of a tool."""
    return CreateResult(
        finish_reason="function_calls",
        content=[FunctionCall(id="c1", name=name, arguments=arguments)],
        usage=RequestUsage(prompt_tokens=1, completion_tokens=1),
        cached=False,
    )


def pair(model: ReplayModel, **options: Any) -> Any:
    """A function that makes a writer and a critic, who speak in turn until a message says APPROVE."""

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(model)
        members: list[Any] = [assistant("writer", own, **options), assistant("critic", own, **options)]
        return RoundRobinGroupChat(members, termination_condition=TextMentionTermination("APPROVE"), max_turns=9)

    return make


async def test_the_messages_of_a_team_are_events(sql: Connection, start_worker: StartWorker) -> None:
    model = ReplayModel("A red bicycle", "Make it shorter", "A bike", "APPROVE")
    await start_worker(autogen_agent("pair", pair(model, model_client_stream=True)))
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
    await start_worker(autogen_agent("pair", pair(model, model_client_stream=True), speakers={"writer"}))
    row = await run(sql, "Write.", agent="pair")
    assert await text(sql, row["message_id"]) == "A bike"


async def test_a_single_agent_and_its_tools(sql: Connection, start_worker: StartWorker) -> None:
    async def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    def make(kit: Kit) -> AssistantAgent:
        return assistant("adder", model, tools=[add], reflect_on_tool_use=True)

    model = ReplayModel(calls("add", '{"a": 1, "b": 2}'), "It is 3.")
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

    model = ReplayModel(calls("much", "{}"), "y" * 1000)
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
        "pair", pair(model), input=task, output=lambda result: len(result.messages), timeout=9, max_attempts=1
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


# Later attempts


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "streaming"])
async def test_a_retry_repeats_no_finished_model_call(
    sql: Connection, start_worker: StartWorker, streams: bool
) -> None:
    model = ReplayModel("one", "two", RuntimeError("overloaded"), "three", "APPROVE")
    await start_worker(autogen_agent("pair", pair(model, model_client_stream=streams)))
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
        calls("book", '{"city": "Rome"}'), calls("look", '{"city": "Rome"}'), RuntimeError("at first"), "Booked."
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


# Errors and cancellation


async def test_the_error_of_a_model_becomes_the_error_of_the_message(
    sql: Connection, start_worker: StartWorker
) -> None:
    class Answer:
        headers = {"retry-after": "1000"}  # noqa: RUF012, a fake of an SDK's

    class RateLimitError(Exception):
        response = Answer()

    await start_worker(autogen_agent("pair", pair(ReplayModel("one", RateLimitError("slow down")))))
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
