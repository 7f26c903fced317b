"""Functions that the client runs for a Claude agent: natively, and through the SDK of OpenAI."""

from typing import Any

import pytest
from openai import AsyncOpenAI

from service.db.pool import Connection
from tests.support.claude_runs import StartClaudeAgent, ask_claude, tool_results
from tests.support.fake_anthropic import FakeAnthropic, tool_calls
from tests.support.fixture_types import StartApi
from treadle import Context

WEATHER = {"name": "weather", "description": "The weather.", "parameters": {"properties": {"city": {"type": "string"}}}}


async def test_a_client_runs_functions_beside_the_agents_own(
    start_api: StartApi, sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    clocks: list[str] = []

    async def clock(context: Context) -> str:
        clocks.append(context.message_id)
        return "noon"

    await start_claude(clock, client_options=["tools"])
    api = await start_api()
    fake_claude.script.append(
        tool_calls(("a", "clock", {}), ("b", "weather", {"city": "Rome"}), pieces=("Let me see.",))
    )
    async with AsyncOpenAI(base_url=f"{api.base_url}/v1", api_key="x") as opened:
        client: Any = opened
        tools = [{"type": "function", "strict": False, **WEATHER}]
        asked = await client.responses.create(model="desk", input="Hi", tools=tools)
        assert (asked.output_text, asked.output[1].name, asked.output[1].arguments) == (
            *("Let me see.", "weather", '{"city":"Rome"}'),
        )
        output = {"type": "function_call_output", "call_id": asked.output[1].call_id, "output": "sun"}
        done = await client.responses.create(model="desk", previous_response_id=asked.id, input=[output])
    assert done.output_text.endswith("Hello, world")
    assert [tool["name"] for tool in fake_claude.requests[0].body["tools"]] == ["clock", "weather"]
    assert [result["content"] for result in tool_results(fake_claude, 1)] == ["noon", "sun"]
    assert len(clocks) == len(fake_claude.requests) - 1 == 1  # neither is paid for twice


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ([{**WEATHER, "name": "clock"}], "'clock' is the name of another tool"),
        ([WEATHER, WEATHER], "'weather' is the name of another tool"),
        ([{"name": "no name"}], "or is not a name"),
        ({}, "must be a list"),
    ],
)
async def test_tools_that_cannot_be_used_reject_the_message(
    sql: Connection, start_claude: StartClaudeAgent, tools: Any, says: str
) -> None:
    def clock() -> None: ...

    await start_claude(clock, client_options=["tools"])
    message = await ask_claude(sql, metadata={"tools": tools})
    assert (message["state"], says in message["error"]) == ("failed", True)


async def test_an_agent_that_does_not_allow_it_has_no_such_tools(
    sql: Connection, fake_claude: FakeAnthropic, start_claude: StartClaudeAgent
) -> None:
    await start_claude()
    assert (await ask_claude(sql, metadata={"tools": [WEATHER]}))["state"] == "completed"
    assert "tools" not in fake_claude.requests[0].body
