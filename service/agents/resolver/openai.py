"""A GPT model as the team's model, through the connection that agents with OpenAI's API have."""

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from service.agents.contract import Rejected
from service.agents.openai.api import Api, tokens_of
from service.agents.resolver.model_requests import ModelRequest


class OpenAI:
    def __init__(self, api: Api) -> None:
        self.name = api.model
        self._api = api

    async def stream(self, request: ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        parameters = {
            "model": self.name,
            "max_completion_tokens" if self._api.is_openai else "max_tokens": request.max_tokens,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": request.prompt()},
            ],
        }
        async with aclosing(self._api.chunks(parameters, request.role)) as chunks:
            async for chunk in chunks:
                for choice in chunk.choices:
                    if choice.finish_reason == "content_filter":
                        raise Rejected(f"The model refused to answer as the {request.role}.")
                    if choice.delta.content:
                        yield choice.delta.content
                if chunk.usage is not None:
                    usage.update(tokens_of(chunk.usage))
