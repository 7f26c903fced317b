"""AutoGen teams as agents.

Run these commands in this repository's folder. The first one installs AutoGen; the second one starts Treadle with the
agents:

    .venv/bin/pip install -e '.[autogen]'
    AGENTS=examples.team make up
    .venv/bin/treadle send "A slogan for a bicycle shop" --agent slogan --follow

The model only replays fixed answers, so the example needs no API key; replace it with a client of autogen_ext.models.
The agent `reviewed` asks a person: answer APPROVE in the chat, or with POST /messages/{id}/input.
"""

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination, TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import ChatCompletionClient
from autogen_ext.models.replay import ReplayChatCompletionClient

from treadle.adapters import Kit, autogen_agent


def model() -> ChatCompletionClient:
    return ReplayChatCompletionClient(["Two wheels are enough.", "Shorter.", "Two wheels. Enough.", "APPROVE"])


async def writers(kit: Kit) -> RoundRobinGroupChat:
    client = kit.model(model())  # its answers are stored: a retry does not call it again
    earlier = await kit.history()  # the thread's earlier exchanges
    writer, critic = (
        AssistantAgent(
            name,
            client,
            system_message=task,
            model_context=UnboundedChatCompletionContext(initial_messages=list(earlier)),
            model_client_stream=True,
        )
        for name, task in (("writer", "Write a slogan."), ("critic", "Criticise it, or say APPROVE."))
    )
    over = TextMentionTermination("APPROVE", sources=["critic"]) | MaxMessageTermination(12)
    return RoundRobinGroupChat([writer, critic], termination_condition=over)


slogan = autogen_agent(
    "slogan",
    writers,
    output=lambda result: result.messages[-2].content,  # what the critic approved
    speakers={"writer"},
    timeout=120,
    description="A writer and a critic look for a slogan.",
)


def reviewers(kit: Kit) -> RoundRobinGroupChat:
    writer = AssistantAgent("writer", kit.model(model()), system_message="Write a slogan.")
    reader = kit.user("reader")  # the message is parked until a person answers
    over = TextMentionTermination("APPROVE", sources=["reader"])
    return RoundRobinGroupChat([writer, reader], termination_condition=over)


reviewed = autogen_agent(
    "reviewed",
    reviewers,
    output=lambda result: next(item.content for item in reversed(result.messages) if item.source == "writer"),
    keep_state=True,  # the next message of the thread continues with the same team
    timeout=120,
    description="A writer looks for a slogan that you approve.",
)
