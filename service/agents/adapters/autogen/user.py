"""A person as an agent of a team. Imported where a team is made with one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from autogen_agentchat.agents import UserProxyAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_core import CancellationToken


class Person(UserProxyAgent):
    """Says what `ask` returns; it is given the last message that the person has not answered, if there is one."""

    def __init__(self, name: str, description: str, ask: Callable[[BaseChatMessage | None], Awaitable[str]]) -> None:
        super().__init__(name, description=description, input_func=self._say)
        self._ask = ask
        self._heard: BaseChatMessage | None = None

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        self._heard = messages[-1] if messages else None
        async for item in super().on_messages_stream(messages, cancellation_token):
            yield item

    async def _say(self, prompt: str, cancellation_token: CancellationToken | None) -> str:
        asked: asyncio.Future[Any] = asyncio.ensure_future(self._ask(self._heard))
        if cancellation_token is not None:
            cancellation_token.link_future(asked)
        return str(await asked)
