"""Claude as the team's model, through the Anthropic SDK. The SDK's own retries are off: the queue retries, and finished
steps are not repeated."""

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from service.agents.claude.api import SERVICE
from service.agents.contract import Rejected
from service.agents.model_calls import model_call
from service.agents.resolver.model_requests import ModelRequest
from service.agents.rounds.errors import error_for_connection, error_for_status


class Claude:
    def __init__(self, api_key: str, base_url: str | None, model: str) -> None:
        import anthropic  # takes a second to import, and only workers with a key need it

        self.name = model
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, max_retries=0)

    async def stream(self, request: ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        import anthropic

        try:
            asked = self._client.messages.stream(
                model=self.name,
                max_tokens=request.max_tokens,
                system=request.system,
                messages=[{"role": "user", "content": request.prompt()}],
            )
            with model_call("anthropic", self.name) as told:
                async with asked as stream:
                    complete = False
                    async for event in stream:
                        if event.type == "text":
                            yield event.text
                        complete = complete or event.type == "message_stop"
                    if not complete:
                        # The connection was closed early but cleanly: the SDK raises nothing.
                        raise ConnectionError(f"The stream of the {request.role} ended before its answer did.")
                    message = await stream.get_final_message()
                told.model, told.stop_reason, told.usage = message.model, message.stop_reason, _tokens(message.usage)
                usage.update(told.usage)
                if message.stop_reason == "refusal":
                    raise Rejected(f"The model refused to answer as the {request.role}.")
        except anthropic.APIStatusError as error:
            raise error_for_status(SERVICE, error, request.role) from error
        except anthropic.APIConnectionError as error:
            raise error_for_connection(SERVICE, error, request.role) from error


def _tokens(usage: Any) -> dict[str, int]:
    """The token counts by their names in the API."""
    counts = usage.model_dump(exclude_none=True)
    return {name: value for name, value in counts.items() if name.endswith("_tokens") and isinstance(value, int)}
