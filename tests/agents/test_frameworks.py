"""The adapters for Pydantic AI, the Agents SDK and AutoGen core, each with a fake of a model in the framework's form.

They show text, tool events, retries, questions for a person, and cancellation.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from agents import Agent as SdkAgent
from agents import Model, function_tool
from agents.tool_context import ToolContext
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
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseTextDeltaEvent,
)
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import RunContext
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from service.agents.adapters.langgraph.asked import Asked
from service.agents.tool_events import ToolSteps
from service.db.pool import Connection
from tests.support.autogen_models import ReplayModel
from tests.support.fixture_types import StartWorker
from tests.support.inputs import asked_input, give_input
from tests.support.messages import settled, submit, text, types
from tests.support.waiting import until
from treadle import Agent, Context
from treadle.adapters import Kit, autogen_core_agent, openai_agents_agent, pydantic_ai_agent
from treadle.testing import FakeContext

SECRET = "the words of a person"


class Script:
    """What a model says in turn: a text, (tool, arguments) or an exception. `asked` has what it received."""

    def __init__(self, *says: Any) -> None:
        self.says = list(says)
        self.asked: list[Any] = []
        self.hangs = asyncio.Event()
        self.ended = asyncio.Event()

    async def next(self, asked: Any) -> Any:
        self.asked.append(asked)
        say = self.says.pop(0)
        if say == "hang":
            self.hangs.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.ended.set()
        if isinstance(say, Exception):
            raise say
        return say


def pydantic_model(script: Script) -> FunctionModel:
    async def stream(messages: Any, info: AgentInfo) -> AsyncIterator[Any]:
        say = await script.next(messages)
        if isinstance(say, tuple):
            yield {0: DeltaToolCall(name=say[0], json_args=say[1], tool_call_id=f"c{len(script.asked)}")}
        else:
            for word in say.split(" "):
                yield f"{word} "

    return FunctionModel(stream_function=stream)


class SdkModel(Model):
    """A model of the Agents SDK that follows a script."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def get_response(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def stream_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
        say = await self._script.next([system_instructions, input])
        number = len(self._script.asked)
        if isinstance(say, tuple):
            item: Any = ResponseFunctionToolCall(
                id=f"f{number}", call_id=f"c{number}", name=say[0], arguments=say[1], type="function_call"
            )
        else:
            for word in say.split(" "):
                yield ResponseTextDeltaEvent.model_construct(type="response.output_text.delta", delta=f"{word} ")
            part = {"type": "output_text", "text": say, "annotations": []}
            item = ResponseOutputMessage.model_validate(
                {"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
            )
        usage = {
            "input_tokens": 3,
            "output_tokens": 4,
            "total_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        response = Response.model_validate(
            {"id": "r", "created_at": 1, "model": "sdk-test", "object": "response", "output": [item.model_dump()]}
            | {"parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "usage": usage}
        )
        yield ResponseCompletedEvent(type="response.completed", sequence_number=1, response=response)


class Tools:
    """Two tools that note their calls; `buy` needs an approval."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def lookup(self, word: str) -> str:
        self.calls.append(f"lookup {word}")
        return f"{word} is blue"

    async def buy(self, what: str) -> str:
        self.calls.append(f"buy {what}")
        return f"{what} is bought"


def with_pydantic_ai(script: Script, tools: Tools, **options: Any) -> Agent:
    made: PydanticAgent[Any, str] = PydanticAgent(pydantic_model(script), system_prompt="Be kind.", deps_type=object)
    made.tool_plain(tools.lookup)
    made.tool_plain(requires_approval=True)(tools.buy)
    return pydantic_ai_agent("asks", made, **options)


def with_agents_sdk(script: Script, tools: Tools, **options: Any) -> Agent:
    lookup, buy = function_tool(tools.lookup), function_tool(tools.buy, needs_approval=True)
    made = SdkAgent[Any](name="Desk", instructions="Be kind.", tools=[lookup, buy], model=SdkModel(script))
    return openai_agents_agent("asks", made, **options)


MAKERS = [with_pydantic_ai, with_agents_sdk]
Make = Callable[..., Agent]


@pytest.fixture(params=MAKERS, ids=["pydantic-ai", "openai-agents"])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No line at INFO has a text of a person."""
    with caplog.at_level(logging.INFO):
        yield
    assert SECRET not in caplog.text


async def test_text_and_tool_events_stream_and_a_retry_repeats_nothing(make: Make) -> None:
    tools = Tools()
    script = Script(("lookup", '{"word": "sky"}'), ConnectionError("away"), "The sky is blue.")
    agent = make(script, tools)
    first = FakeContext(history=[("Hello", "Hi!"), ({"content": "Which form?"}, {"form": "json"})])
    with pytest.raises(ConnectionError, match="away"):
        await agent(first, SECRET)
    second = FakeContext(steps=first.steps, history=[("Hello", "Hi!")])
    assert str(await agent(second, SECRET)).strip() == "The sky is blue."
    assert tools.calls == ["lookup sky"]
    assert len(script.asked) == 3  # the first answer was stored
    assert second.chunks == ["The ", "sky ", "is ", "blue. "]
    for context in (first, second):
        call, outcome = (data for type, data in context.events if type == "tool")
        assert (call["name"], call["input"]) == ("lookup", {"word": "sky"})
        assert (outcome["name"], outcome["output"], outcome["id"]) == ("lookup", "sky is blue", call["id"])
    assert set(second.counts) >= {"input_tokens", "output_tokens"}
    said = str(script.asked[0])
    places = [said.index(part) for part in ("Be kind.", "Hello", "Hi!", "Which form?", '{"form":"json"}', SECRET)]
    assert places == sorted(places)


async def test_a_person_approves_or_denies_and_a_cancel_ends_the_model(
    make: Make, sql: Connection, start_worker: StartWorker
) -> None:
    tools, script = Tools(), Script(("buy", '{"what": "a bicycle"}'), "Done.")
    await start_worker(make(script, tools))
    message_id = await submit(sql, SECRET, agent="asks", thread_id="t")
    asked = await asked_input(sql, message_id)
    [call] = asked["question"]["approve"]
    assert (call["name"], call["input"], tools.calls) == ("buy", {"what": "a bicycle"}, [])
    await give_input(sql, message_id, "yes", asked["name"])
    row = await settled(sql, message_id)
    assert (str(row["result"]).strip(), row["attempt"], row["failures"]) == ("Done.", 2, 0)
    assert (tools.calls, len(script.asked)) == (["buy a bicycle"], 2)

    script.says += [("buy", '{"what": "a car"}'), "As you wish."]
    message_id = await submit(sql, "And a car", agent="asks", thread_id="t")
    await asked_input(sql, message_id)
    await give_input(sql, message_id, ["Too dear for us"])
    assert str((await settled(sql, message_id))["result"]).strip() == "As you wish."
    assert tools.calls == ["buy a bicycle"]
    assert "Too dear for us" in str(script.asked[-1])

    script.says.append("hang")
    message_id = await submit(sql, "Hang", agent="asks", thread_id="t")
    await script.hangs.wait()
    await sql.fetchval("select treadle.cancel($1)", message_id)
    assert (await settled(sql, message_id))["state"] == "cancelled"
    await script.ended.wait()


class City(BaseModel):
    name: str


async def test_pydantic_ai_gives_structures_and_reaches_the_context() -> None:
    made: PydanticAgent[Context, City] = PydanticAgent(TestModel(custom_output_args={"name": "Rome"}), output_type=City)

    @made.tool
    async def remember(ctx: RunContext[Context], what: str) -> str:
        ctx.deps.memory["what"] = what
        return "remembered"

    context = FakeContext()
    agent = pydantic_ai_agent("city", lambda: made, output=lambda city: {"city": city.name})
    assert await agent(context, "Which?") == {"city": "Rome"}
    assert "what" in context.memory


async def test_the_agents_sdk_hands_over_and_reaches_the_context() -> None:
    script = Script(("transfer_to_other", "{}"), "I am the other.")

    @function_tool
    async def unused(wrapper: ToolContext[Context]) -> str:
        return wrapper.context.message_id

    other = SdkAgent[Any](name="Other", model=SdkModel(script), tools=[unused])
    first = SdkAgent[Any](name="First", model=SdkModel(script), handoffs=[other])
    other.handoffs = [first]  # a circle
    context = FakeContext()
    agent = openai_agents_agent("first", lambda: first, output=lambda output: {"said": output})
    assert await agent(context, "Hi") == {"said": "I am the other."}
    assert ("progress", {"agent": "Other"}) in context.events


# AutoGen core


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


async def test_agents_of_autogen_core_answer_ask_and_retry_at_no_cost(
    sql: Connection, start_worker: StartWorker
) -> None:
    model = ReplayModel("A slogan", ConnectionError("away"), "Another")
    published = autogen_core_agent(
        "asks", lambda kit: two_agents(kit, model), recipient=DefaultTopicId(), max_attempts=1
    )
    await start_worker(published)
    message_id = await submit(sql, SECRET, agent="asks", thread_id="t")
    asked = await asked_input(sql, message_id)
    assert asked["question"] == {"good?": "A slogan"}
    await give_input(sql, message_id, "is good", "verdict")
    row = await settled(sql, message_id)
    assert (row["result"], row["attempt"], len(model.asked)) == ("A slogan is good", 2, 1)
    assert await text(sql, message_id) == "A slogan"
    assert "message" in await types(sql, message_id)
    failed = await settled(sql, await submit(sql, "Once more", agent="asks", thread_id="t"))
    assert (failed["state"], "away" in failed["error"]) == ("failed", True)
    assert model.asked[1][:2] == [SECRET, "A slogan is good"]


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


@pytest.mark.parametrize(
    ("make", "extra"),
    [(pydantic_ai_agent, "pydantic-ai"), (openai_agents_agent, "openai-agents"), (autogen_core_agent, "autogen")],
)
def test_a_missing_framework_names_the_extra(make: Any, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    options = {"recipient": "x"} if make is autogen_core_agent else {}
    with pytest.raises(ImportError, match=rf"pip install 'treadle\[{extra}\]'"):
        make("x", lambda: None, **options)


def test_a_call_id_that_is_repeated_names_another_step() -> None:
    """Some servers of models begin the numbers of calls again in each answer."""
    steps = ToolSteps()
    assert [steps.name("look", "call_0"), steps.name("look", "call_0"), steps.name("add", "call_0")] == [
        "tool look call_0",
        "tool look call_0 2",
        "tool add call_0",
    ]


def test_a_client_names_neither_the_user_nor_what_langgraph_sets() -> None:
    asked = Asked(config={"configurable": {"langgraph_auth_user_id": "root", "__pregel_x": 1, "tone": "warm"}})
    assert asked.options == {"configurable": {"tone": "warm"}}
