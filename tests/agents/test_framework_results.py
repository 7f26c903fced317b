"""What agents of other frameworks leave to later attempts, and how they fail."""

import asyncio
import json
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from agents import Agent as SdkAgent
from agents import RunConfig, function_tool
from autogen_agentchat.messages import TextMessage
from autogen_core import ClosureAgent, MessageContext, TopicId, TypeSubscription
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import BinaryContent, ToolReturn
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from service.agents.contract import Unacceptable
from service.agents.raised import decisive
from tests.support.fake_anthropic import Answer, FakeAnthropic
from tests.support.fake_openai import FakeOpenAI, Reply
from tests.support.framework_models import Script, SdkModel
from treadle import Agent, Overloaded, Rejected, RetryAfter
from treadle.adapters import Kit, autogen_core_agent, langgraph_agent, openai_agents_agent, pydantic_ai_agent
from treadle.testing import FakeContext


async def test_what_a_tool_of_pydantic_ai_adds_is_there_in_a_later_attempt() -> None:
    asked: list[str] = []

    async def say(messages: Any, info: AgentInfo) -> Any:
        asked.append(str(messages))
        if len(asked) == 1:
            yield {0: DeltaToolCall(name="look", json_args="{}", tool_call_id="c1")}
            yield {1: DeltaToolCall(name="scan", json_args="{}", tool_call_id="c2")}
            yield {2: DeltaToolCall(name="copy", json_args="{}", tool_call_id="c3")}
        elif len(asked) == 2:
            raise ConnectionError("away")
        else:
            yield "I see."

    made = PydanticAgent(FunctionModel(stream_function=say))

    @made.tool_plain
    async def look() -> ToolReturn:
        shown: list[Any] = ["A picture:", BinaryContent(b"pixels", media_type="image/png")]
        return ToolReturn("one picture", content=shown, metadata={"taken": "today"})

    @made.tool_plain
    async def scan() -> list[Any]:
        return ["scanned", BinaryContent(b"dots", media_type="image/png")]

    @made.tool_plain
    async def copy() -> dict[str, Any]:
        return {"pydantic_ai.ToolReturn": {"copied": 1}}

    agent = pydantic_ai_agent("looks", made)
    first = FakeContext()
    with pytest.raises(ConnectionError):
        await agent(first, "Look")
    assert str(await agent(FakeContext(steps=first.steps), "Look")).strip() == "I see."
    kept = ("one picture", "A picture:", "b'pixels'", "'taken': 'today'", "scanned", "b'dots'", "{'copied': 1}")
    for said in asked[1:]:
        for part in kept:
            assert part in said, part


async def test_an_agent_of_autogen_core_that_fails_ends_the_answer_of_another() -> None:
    async def both(kit: Kit) -> Any:
        runtime = kit.runtime()

        async def answer(agent: Any, message: TextMessage, ctx: MessageContext) -> str:
            await agent.publish_message(message, TopicId("work", "default"))
            await asyncio.sleep(0)
            return "Never said"

        async def fail(agent: Any, message: TextMessage, ctx: MessageContext) -> None:
            raise ValueError("The work fails.")

        await ClosureAgent.register_closure(runtime, "answers", answer)
        await ClosureAgent.register_closure(
            runtime, "works", fail, subscriptions=lambda: [TypeSubscription("work", "works")]
        )
        return runtime

    agent = autogen_core_agent("both", both, recipient="answers")
    async with asyncio.timeout(60):
        with pytest.raises(ValueError, match="The work fails"):
            await agent(FakeContext(), "Hi")


def _graph(url: str) -> Agent:
    model = ChatOpenAI(model="m", api_key="x", base_url=url, max_retries=0)  # type: ignore[arg-type]

    async def say(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("say", say).add_edge(START, "say")
    return langgraph_agent("says", graph.compile(checkpointer=InMemorySaver()))


def _pydantic(url: str) -> Agent:
    client = openai.AsyncOpenAI(api_key="x", base_url=url, max_retries=0)
    return pydantic_ai_agent("says", PydanticAgent(OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))))


@pytest.mark.parametrize("make", [_graph, _pydantic], ids=["langgraph", "pydantic-ai"])
async def test_an_answer_whose_stream_ends_early_is_not_kept(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeOpenAI().running() as fake:
        agent = make(fake.url)
        fake.script += [Reply(({"content": "Do not"},), ends="early"), Reply(finish_reason="length")]
        context = FakeContext()
        with pytest.raises(ConnectionError, match="ended before its answer did"):
            await agent(context, "Shall I?")
        assert context.steps == {}
        assert str(await agent(FakeContext(attempt=2), "Shall I?")) == "Hello, world"


@pytest.mark.parametrize("ends", ["without a reason", "without a delta"])
@pytest.mark.parametrize("make", [_graph, _pydantic], ids=["langgraph", "pydantic-ai"])
async def test_an_answer_whose_server_tells_only_its_usage_is_whole(
    make: Any, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeOpenAI().running() as fake:
        fake.script.append(Reply(ends=ends))
        assert str(await make(fake.url)(FakeContext(), "Hi")) == "Hello, world"


@pytest.mark.parametrize("last", [None, "response.completed", "response.incomplete"])
async def test_the_end_of_a_stream_of_responses_is_seen_by_pydantic_ai(last: str | None) -> None:
    response = {"id": "r", "object": "response", "created_at": 1, "model": "m", "output": [], "tools": []}
    response |= {"parallel_tool_calls": False, "tool_choice": "auto"}
    said = {"type": "response.output_text.delta", "item_id": "i", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response | {"status": "in_progress"}},
        said | {"delta": "Hello", "logprobs": []},
    ]
    if last is not None:
        ended: dict[str, Any] = {"status": last.removeprefix("response.")}
        ended |= {"incomplete_details": {"reason": "max_output_tokens"}} if "in" in last else {}
        events.append({"type": last, "response": response | ended})
    lines = [json.dumps(event | {"sequence_number": number}) for number, event in enumerate(events)]
    body = "".join(f"data: {line}\n\n" for line in lines)
    answer = httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(lambda _: answer))
    client = openai.AsyncOpenAI(api_key="x", http_client=http, max_retries=0)
    model = OpenAIResponsesModel("m", provider=OpenAIProvider(openai_client=client))
    agent = pydantic_ai_agent("says", PydanticAgent(model))
    context = FakeContext()
    if last is None:
        with pytest.raises(ConnectionError, match="ended before its answer did"):
            await agent(context, "Hi")
        assert context.steps == {}
    else:
        assert await agent(context, "Hi") == "Hello"


async def test_the_end_of_a_stream_of_anthropic_is_seen_by_pydantic_ai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with FakeAnthropic().running() as fake:
        client = anthropic.AsyncAnthropic(api_key="x", base_url=fake.url, max_retries=0)
        model = AnthropicModel("m", provider=AnthropicProvider(anthropic_client=client))
        agent = pydantic_ai_agent("says", PydanticAgent(model, model_settings=ModelSettings(max_tokens=10)))
        fake.script += [Answer(ends="early"), Answer(stop_reason="max_tokens")]
        with pytest.raises(ConnectionError, match="ended before its answer did"):
            await agent(FakeContext(), "Hi")
        assert await agent(FakeContext(), "Hi") == "Hello, world"


@pytest.mark.parametrize(
    "error", [Rejected("No."), Overloaded("Busy."), ExceptionGroup("g", [RetryAfter(5, "Later.")])]
)
async def test_what_a_tool_of_the_agents_sdk_raises_decides(error: Exception) -> None:
    """The SDK makes a text for the model of it, which would be kept as the result."""

    async def buy(what: str) -> str:
        raise error

    script = Script(("buy", '{"what": "it"}'), "Bought.")
    made = SdkAgent[Any](name="Desk", tools=[function_tool(buy)], model=SdkModel(script))
    context = FakeContext()
    with pytest.raises((Rejected, RetryAfter), match=str(decisive(error))):
        await openai_agents_agent("buys", made)(context, "Buy it")
    assert list(context.steps) == ["model 1"]


@pytest.mark.parametrize("stops", [False, True])
async def test_a_tool_that_decides_lets_those_beside_it_end(stops: bool) -> None:
    """Of two that decide, the rejection wins, also where the results of the tools end the run."""
    works, fails = asyncio.Event(), asyncio.Event()

    async def work(what: str) -> str:
        works.set()
        await fails.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        return "paid"

    async def puts_off(what: str) -> str:
        await works.wait()
        fails.set()
        raise Overloaded("Busy.")

    async def refuses(what: str) -> str:
        await fails.wait()
        raise Rejected("No.")

    script = Script([(name, '{"what": "it"}') for name in ("work", "puts_off", "refuses")], "Done.")
    tools: list[Any] = [function_tool(tool) for tool in (work, puts_off, refuses)]
    behavior: Any = "stop_on_first_tool" if stops else "run_llm_again"
    made = SdkAgent[Any](name="Desk", tools=tools, model=SdkModel(script), tool_use_behavior=behavior)
    context = FakeContext()
    with pytest.raises(Rejected, match="No"):
        await openai_agents_agent("works", made)(context, "Work")
    assert (list(context.steps), context.steps["tool work c1"]) == (["model 1", "tool work c1"], "paid")
    assert len(script.asked) == 1


@pytest.mark.parametrize("error", [ValueError("secret"), Unacceptable("too large")])
async def test_other_errors_of_its_tools_are_told_to_the_model(error: Exception) -> None:
    """By the formatter of the author, if there is one."""

    def look(what: str) -> str:
        raise error

    async def said(raised: Any) -> str | None:
        return f"It says {type(raised.error).__name__}."

    script = Script(("look", '{"what": "it"}'), "Sorry.")
    made = SdkAgent[Any](name="Desk", tools=[function_tool(look)], model=SdkModel(script))
    config = RunConfig(tracing_disabled=True, tool_error_formatter=said)
    context = FakeContext()
    answer = await openai_agents_agent("looks", made, run_config=config)(context, "Look")
    assert (str(answer).strip(), context.steps["tool look c1"]) == ("Sorry.", f"It says {type(error).__name__}.")
