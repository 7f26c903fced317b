"""An agent of each adapter, for worker processes: it answers with the text of its message, or raises it."""

import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import CreateResult, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient
from langchain_core.messages import AIMessage
from langgraph.graph import MessagesState

from tests.support.autogen_models import CAPABILITIES
from tests.support.graphs import chain_graph
from treadle import Context, agent
from treadle.adapters import Kit, autogen_agent, http_agent, langgraph_agent

FAIL = "fail: "


class Echo(ReplayChatCompletionClient):
    def __init__(self) -> None:
        super().__init__(["unused"], CAPABILITIES)

    async def create(self, messages: Sequence[Any], **options: Any) -> CreateResult:
        text = answer_to(str(messages[-1].content))
        usage = RequestUsage(prompt_tokens=1, completion_tokens=1)
        return CreateResult(finish_reason="stop", content=text, usage=usage, cached=False)

    async def create_stream(self, messages: Sequence[Any], **options: Any) -> AsyncGenerator[str | CreateResult, None]:
        answer = await self.create(messages)
        yield str(answer.content)
        yield answer


def answer_to(text: str) -> str:
    if text.startswith(FAIL):
        raise ValueError(text)
    return text


def make_assistant(kit: Kit) -> AssistantAgent:
    return AssistantAgent("assistant", Echo(), model_client_stream=True)


def make_pair(kit: Kit) -> RoundRobinGroupChat:
    return RoundRobinGroupChat(
        [AssistantAgent("a", Echo()), AssistantAgent("b", Echo())], termination_condition=MaxMessageTermination(3)
    )


async def speak(state: Any) -> dict[str, Any]:
    return {"messages": [AIMessage(answer_to(str(state["messages"][-1].content)))]}


@agent("plain", max_attempts=1)
async def plain(context: Context, text: str) -> str:
    await context.emit(answer_to(text))
    return text


graph = langgraph_agent("graph", chain_graph(MessagesState, speak=speak).compile(), max_attempts=1)
assistant = autogen_agent("assistant", make_assistant, max_attempts=1)
pair = autogen_agent("pair", make_pair, max_attempts=1)
remote = http_agent("remote", os.environ["TEST_URL"], max_attempts=1, headers={"Authorization": "Bearer trd_of_remote"})
