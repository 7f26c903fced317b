"""What agents of other frameworks leave to later attempts, and how they fail."""

import asyncio
from typing import Any

import pytest
from autogen_agentchat.messages import TextMessage
from autogen_core import ClosureAgent, MessageContext, TopicId, TypeSubscription
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import BinaryContent, ToolReturn
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from treadle.adapters import Kit, autogen_core_agent, pydantic_ai_agent
from treadle.testing import FakeContext


async def test_what_a_tool_of_pydantic_ai_adds_is_there_in_a_later_attempt() -> None:
    asked: list[str] = []

    async def say(messages: Any, info: AgentInfo) -> Any:
        asked.append(str(messages))
        if len(asked) == 1:
            yield {0: DeltaToolCall(name="look", json_args="{}", tool_call_id="c1")}
            yield {1: DeltaToolCall(name="scan", json_args="{}", tool_call_id="c2")}
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

    agent = pydantic_ai_agent("looks", made)
    first = FakeContext()
    with pytest.raises(ConnectionError):
        await agent(first, "Look")
    assert str(await agent(FakeContext(steps=first.steps), "Look")).strip() == "I see."
    for said in asked[1:]:
        for part in ("one picture", "A picture:", "b'pixels'", "'taken': 'today'", "scanned", "b'dots'"):
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
