"""What an author's function makes a team with: models and tools whose results are stored, people, and the history."""

import functools
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from service.agents.adapters.autogen.messages import message_content
from service.agents.contract import Context
from service.agents.thread_bridge import call_anywhere
from service.agents.tool_events import plain
from service.limits import HISTORY_EXCHANGES, HISTORY_TOKENS

if TYPE_CHECKING:
    from autogen_agentchat.agents import UserProxyAgent
    from autogen_core import SingleThreadedAgentRuntime
    from autogen_core.models import ChatCompletionClient, LLMMessage

MAX_STEP_PART_CHARS = 150  # of a tool's or a person's name in the name of a step


class Kit:
    """The parts for a team in one attempt. `context` is the context of the message."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.last_model_error: Exception | None = None
        self.stored = 0  # results of calls, in this attempt or an earlier one
        # Answers of `model` that the team has not counted yet, in this attempt, by their prompt and completion tokens.
        self.untold: Counter[tuple[int, int]] = Counter()
        self.questions: Counter[str] = Counter()  # in this attempt, by the person's name
        self._models = 0
        self._calls: Counter[str] = Counter()

    def runtime(self) -> "SingleThreadedAgentRuntime":
        """A runtime of AutoGen core that fails if one of its agents does; AutoGen's own default only logs that."""
        from autogen_core import SingleThreadedAgentRuntime

        return SingleThreadedAgentRuntime(ignore_unhandled_exceptions=False)

    def model(self, client: "ChatCompletionClient") -> "ChatCompletionClient":
        """The same model with each answer stored as a step."""
        from service.agents.adapters.autogen.model import StepClient

        self._models += 1
        return StepClient(client, self, f"model {self._models}")

    def tool(self, function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """The same function, for an agent's `tools`, with each result stored as a step (as JSON)."""

        @functools.wraps(function)
        async def call(*args: Any, **kwargs: Any) -> Any:
            async def run() -> Any:
                return plain(await call_anywhere(functools.partial(function, *args, **kwargs)))

            arguments = [*args, {name: value for name, value in kwargs.items() if name != "cancellation_token"}]
            return await self.step(f"tool {function.__name__}"[:MAX_STEP_PART_CHARS], arguments, run)

        return call

    def user(self, name: str, description: str = "A person who answers questions.") -> "UserProxyAgent":
        """A person as an agent of the team. The question is the last message before the person's turn; the Treadle
        message is parked until the answer arrives."""
        from service.agents.adapters.autogen.user import Person

        async def ask(last_message: Any) -> str:
            self.questions[name] += 1
            question = None if last_message is None else message_content(last_message)
            step = f"user {name[:MAX_STEP_PART_CHARS]} {self.questions[name]}"
            answer = await self.context.input(question, name=step)
            return answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()

        self.questions[name] = 0
        return Person(name, description, ask)

    async def history(self, limit: int = HISTORY_EXCHANGES, *, max_tokens: int = HISTORY_TOKENS) -> "list[LLMMessage]":
        """The thread's history, with at most so many tokens, for an agent's `model_context`, for example
        UnboundedChatCompletionContext(initial_messages=await kit.history())."""
        from autogen_core.models import AssistantMessage, UserMessage

        messages: list[LLMMessage] = []
        for exchange in await self.context.history(limit, max_tokens=max_tokens):
            question, answer = (
                value.get("content") if isinstance(value, dict) else value
                for value in (exchange.message, exchange.result)
            )
            if isinstance(question, str) and isinstance(answer, str):
                messages.append(UserMessage(content=question, source="user"))
                messages.append(AssistantMessage(content=answer, source="assistant"))
        return messages

    async def step(self, kind: str, arguments: Any, run: Callable[[], Awaitable[Any]]) -> Any:
        """Store the result of a call. Its step is named by the call's arguments, so that the order of calls may change
        between attempts; equal calls are numbered."""
        digest = hashlib.sha256(msgspec.json.encode(plain(arguments), order="sorted")).hexdigest()[:16]
        name = f"{kind} {digest}"
        self._calls[name] += 1
        result = await self.context.step(f"{name} {self._calls[name]}", run)
        self.stored += 1
        return result
