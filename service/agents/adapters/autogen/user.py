"""A person as an agent of a team. Imported only when a team is made with one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from autogen_agentchat.agents import UserProxyAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_core import CancellationToken


class Person(UserProxyAgent):
    """Says what `ask` returns. `ask` receives the last message before the person's turn, or None."""

    def __init__(self, name: str, description: str, ask: Callable[[BaseChatMessage | None], Awaitable[str]]) -> None:
        super().__init__(name, description=description, input_func=self._answer)
        self._ask = ask
        self._last_message: BaseChatMessage | None = None

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        self._last_message = messages[-1] if messages else None
        async for item in super().on_messages_stream(messages, cancellation_token):
            yield item

    async def _answer(self, prompt: str, cancellation_token: CancellationToken | None) -> str:
        answer: asyncio.Future[Any] = asyncio.ensure_future(self._ask(self._last_message))
        if cancellation_token is not None:
            cancellation_token.link_future(answer)
        return str(await answer)
