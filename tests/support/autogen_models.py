"""AutoGen's replay model, and agents that ask it."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import CreateResult, ModelFamily, ModelInfo
from autogen_ext.models.replay import ReplayChatCompletionClient

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
