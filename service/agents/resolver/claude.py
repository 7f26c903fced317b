"""The team's model is Claude, through the Anthropic SDK. Its own retries are off: the queue retries, and what was
finished is not asked again."""

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from service.agents.contract import Rejected
from service.agents.http_errors import error_for_answer
from service.agents.resolver.model_requests import Ask


class Claude:
    def __init__(self, api_key: str, base_url: str | None, model: str) -> None:
        import anthropic  # takes a second, and only those with a key need it

        self.name = model
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, max_retries=0)

    async def stream(self, ask: Ask, usage: Counter[str]) -> AsyncGenerator[str, None]:
        import anthropic

        try:
            async with self._client.messages.stream(
                model=self.name,
                max_tokens=ask.max_tokens,
                system=ask.system,
                messages=[{"role": "user", "content": ask.prompt()}],
            ) as stream:
                whole = False
                async for event in stream:
                    if event.type == "text":
                        yield event.text
                    whole = whole or event.type == "message_stop"
                if not whole:
                    # The connection ended early but cleanly: the SDK raises nothing, yet this is no answer.
                    raise ConnectionError(f"The stream of the {ask.role} ended before its answer did.")
                said = await stream.get_final_message()
                usage.update(_tokens(said.usage))
                if said.stop_reason == "refusal":
                    raise Rejected(f"The model refused to answer as the {ask.role}.")
        except anthropic.APIStatusError as error:
            raise _verdict(error, ask.role) from error
        except anthropic.APIConnectionError as error:
            reason = str(error.__cause__ or error).rstrip(".")
            raise ConnectionError(f"The Anthropic API cannot be reached by the {ask.role}: {reason}.") from error


def _tokens(usage: Any) -> dict[str, int]:
    """The counts of tokens, by their names in the API."""
    counts = usage.model_dump(exclude_none=True)
    return {name: value for name, value in counts.items() if name.endswith("_tokens") and isinstance(value, int)}


def _verdict(error: Any, role: str) -> Exception:
    said = (error.api_message or error.message).rstrip(".")
    if error.status_code < 400:  # an error event in the middle of a stream
        return ConnectionError(f"The Anthropic API broke off the answer of the {role}: {said}.")
    reason = f"The Anthropic API answered the {role} {error.status_code}: {said}."
    return error_for_answer(error.status_code, error.response.headers, reason)
