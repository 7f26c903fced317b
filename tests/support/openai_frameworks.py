"""Unmodified frameworks as clients of /v1: each streams an answer, runs a tool for the agent, and has a second turn.

A request repeated under its Idempotency-Key receives the answer to the first one: so the user of a framework without a
resume of its own goes on after a cut. `openai.mjs` in tests/support/node has the clients of npm.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

from openai import AsyncOpenAI, Timeout

from tests.support.waiting import LIMIT_SECONDS

# By default a connection has five seconds: less than the time for which many clients that begin at once keep the loop.
PATIENCE = Timeout(600.0, connect=LIMIT_SECONDS)
CITY = "Rome"
WEATHER = "Sun"


class Framework(NamedTuple):
    """`stream(url, text, key)` tells the answer of the agent `stage` as it comes; `tools(url)` and `turns(url)` return
    the answer of the agent `tourist`, and the second one of the agent `recall`."""

    stream: Callable[..., AsyncGenerator[str, None]]
    tools: Callable[..., Any]
    turns: Callable[..., Any]


def get_weather(city: str) -> str:
    """The weather of a city."""
    return WEATHER if city == CITY else "none"


_opened: list[Any] = []


def openai_client(url: str) -> AsyncOpenAI:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=PATIENCE)
    _opened.append(client)
    return client


async def close_clients() -> None:
    """Those of the frameworks, which never close them."""
    while _opened:
        await _opened.pop().close()


def langchain(*, responses: bool) -> Framework:
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    def model(url: str, agent: str, **headers: str) -> Any:
        given: Any = {"base_url": f"{url}/v1", "api_key": "unused", "max_retries": 0, "timeout": PATIENCE}
        made = ChatOpenAI(model=agent, use_responses_api=responses, default_headers=headers, **given)
        _opened.append(made.root_async_client)
        return made

    async def stream(url: str, text: str, key: str) -> AsyncGenerator[str, None]:
        async for chunk in model(url, "stage", **{"Idempotency-Key": key}).astream(text):
            if chunk.text:
                yield str(chunk.text)

    async def tools(url: str) -> str:
        bound = model(url, "tourist").bind_tools([tool(get_weather)])
        messages: list[Any] = [HumanMessage(CITY)]
        messages.append(await bound.ainvoke(messages))
        [call] = messages[-1].tool_calls
        messages.append(ToolMessage(get_weather(**call["args"]), tool_call_id=call["id"]))
        return str((await bound.ainvoke(messages)).text)

    async def turns(url: str) -> str:
        recall = model(url, "recall")
        messages: list[Any] = [HumanMessage("a")]
        messages += [await recall.ainvoke(messages), HumanMessage("b")]
        return str((await recall.ainvoke(messages)).text)

    return Framework(stream, tools, turns)


def openai_agents(*, responses: bool, socket: bool = False) -> Framework:
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        OpenAIResponsesWSModel,
        RunConfig,
        Runner,
        function_tool,
    )

    kind: Any = OpenAIResponsesModel if responses else OpenAIChatCompletionsModel
    kind = OpenAIResponsesWSModel if socket else kind
    config = RunConfig(tracing_disabled=True)

    def agent(url: str, name: str, **headers: str) -> Any:
        settings = ModelSettings(extra_headers=headers)
        model = kind(name, openai_client=openai_client(url))
        return Agent(name="client", model=model, model_settings=settings, tools=[function_tool(get_weather)])

    async def stream(url: str, text: str, key: str) -> AsyncGenerator[str, None]:
        headers = {} if socket else {"Idempotency-Key": key}
        run = Runner.run_streamed(agent(url, "stage", **headers), text, run_config=config)
        said = ""
        async for event in run.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                said += event.data.delta
                yield event.data.delta
        assert run.final_output == said

    async def tools(url: str) -> str:
        return str((await Runner.run(agent(url, "tourist"), CITY, run_config=config)).final_output)

    async def turns(url: str) -> str:
        first = await Runner.run(agent(url, "recall"), "a", run_config=config)
        said: Any = [*first.to_input_list(), {"role": "user", "content": "b"}]
        return str((await Runner.run(agent(url, "recall"), said, run_config=config)).final_output)

    return Framework(stream, tools, turns)


def pydantic_ai(*, responses: bool) -> Framework:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind: Any = OpenAIResponsesModel if responses else OpenAIChatModel

    def agent(url: str, name: str, **headers: str) -> Any:
        model = kind(name, provider=OpenAIProvider(openai_client=openai_client(url)))
        return Agent(model, model_settings={"extra_headers": headers}, tools=[get_weather])

    async def stream(url: str, text: str, key: str) -> AsyncGenerator[str, None]:
        async with agent(url, "stage", **{"Idempotency-Key": key}).run_stream(text) as run:
            async for delta in run.stream_text(delta=True, debounce_by=None):
                yield delta

    async def tools(url: str) -> str:
        return str((await agent(url, "tourist").run(CITY)).output)

    async def turns(url: str) -> str:
        first = await agent(url, "recall").run("a")
        return str((await agent(url, "recall").run("b", message_history=first.all_messages())).output)

    return Framework(stream, tools, turns)


def all_frameworks() -> dict[str, Framework]:
    return {
        "langchain": langchain(responses=True),
        "langchain-chat": langchain(responses=False),
        "agents": openai_agents(responses=True),
        "agents-chat": openai_agents(responses=False),
        "pydantic": pydantic_ai(responses=True),
        "pydantic-chat": pydantic_ai(responses=False),
    }
