"""AutoGen's replay model, and agents and teams that ask it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, ModelFamily, ModelInfo, RequestUsage
from autogen_ext.models.replay import ReplayChatCompletionClient

from treadle.adapters import Kit

CAPABILITIES = ModelInfo(
    vision=False, function_calling=True, json_output=True, family=ModelFamily.UNKNOWN, structured_output=True
)


class ReplayModel(ReplayChatCompletionClient):
    """Gives these answers in turn to all callers; an answer that is an exception is raised. Records the requests."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(
            [answer if isinstance(answer, CreateResult) else str(answer) for answer in answers], CAPABILITIES
        )
        self.errors = {n: answer for n, answer in enumerate(answers) if isinstance(answer, Exception)}
        self.asked: list[list[str]] = []

    def _ask(self, messages: Sequence[Any]) -> None:
        self.asked.append([str(message.content) for message in messages])
        if error := self.errors.get(self._current_index):
            self._current_index += 1
            raise error

    async def create(self, messages: Sequence[Any], **options: Any) -> CreateResult:
        self._ask(messages)
        return await super().create(messages, **options)

    async def create_stream(self, messages: Sequence[Any], **options: Any) -> AsyncGenerator[str | CreateResult, None]:
        self._ask(messages)
        async for item in super().create_stream(messages, **options):
            yield item


def assistant(name: str, model: Any, **options: Any) -> AssistantAgent:
    return AssistantAgent(name, model, system_message=f"You are {name}.", description=name, **options)


def tool_call(name: str, arguments: str) -> CreateResult:
    """A model's call of a tool."""
    return CreateResult(
        finish_reason="function_calls",
        content=[FunctionCall(id="c1", name=name, arguments=arguments)],
        usage=RequestUsage(prompt_tokens=1, completion_tokens=1),
        cached=False,
    )


def writer_and_critic(model: ReplayModel, **options: Any) -> Any:
    """A function that makes a writer and a critic, who speak in turn until a message says APPROVE."""

    def make(kit: Kit) -> RoundRobinGroupChat:
        own = kit.model(model)
        members: list[Any] = [assistant("writer", own, **options), assistant("critic", own, **options)]
        return RoundRobinGroupChat(members, termination_condition=TextMentionTermination("APPROVE"), max_turns=9)

    return make
