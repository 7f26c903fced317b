"""The Messages API of Anthropic, one streamed call at a time, through its SDK. The SDK's own retries are off: the queue
retries, and a Retry-After of the API is obeyed."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from service.agents.http_errors import verdict

UNFINISHED = frozenset({"refusal", "max_tokens", "model_context_window_exceeded"})  # the model did not get to its end


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model answered to one call: Anthropic's content blocks as they came, and the numbers of its usage."""

    content: list[dict[str, Any]]
    model: str
    stop_reason: str | None
    usage: dict[str, int]
    explanation: str | None = None  # of a refusal

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tools it asks for; none where it broke off in the middle."""
        if self.stop_reason in UNFINISHED:
            return []
        return [block for block in self.content if block["type"] == "tool_use"]

    @property
    def goes_on(self) -> bool:
        """Whether the model is to be asked again: it wants results, or time."""
        return bool(self.calls) or self.stop_reason == "pause_turn"

    @property
    def turn(self) -> list[dict[str, Any]]:
        """The blocks as they are passed back; the API sends empty texts, and takes none."""
        return [block for block in self.content if block["type"] != "text" or block["text"].strip()]

    @property
    def text(self) -> str:
        return "".join(block["text"] for block in self.content if block["type"] == "text")


class Api:
    """How a worker reaches the API; `model` is asked by agents that name none."""

    def __init__(self, api_key: str, base_url: str | None, model: str) -> None:
        import anthropic  # takes a second, and only those with a key need it

        self.model = model
        self._errors = anthropic.APIStatusError, anthropic.APIConnectionError
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, max_retries=0)

    async def ask(self, request: dict[str, Any], hear: Callable[[str, str], Awaitable[None]]) -> Answer:
        """Make a call. `hear` is told of text as it comes and of each thought when it is whole: `text` or `thinking`,
        and what it says.

        Raises Rejected, RetryAfter or ConnectionError, as the API's trouble asks for.
        """
        refused, unreachable = self._errors
        whole = False
        try:
            async with self._client.messages.stream(**request) as stream:
                async for event in stream:
                    if event.type == "text":
                        await hear("text", event.text)
                    elif event.type == "content_block_stop" and event.content_block.type == "thinking":
                        await hear("thinking", event.content_block.thinking)
                    whole = whole or event.type == "message_stop"
                if not whole:
                    # The connection ended early but cleanly: the SDK raises nothing, yet this is no answer.
                    raise ConnectionError("The stream ended before the answer did.")
                said = await stream.get_final_message()
        except refused as error:
            raise _verdict(error) from error
        except unreachable as error:
            reason = str(error.__cause__ or error).rstrip(".")
            raise ConnectionError(f"The Anthropic API cannot be reached: {reason}.") from error
        return Answer(
            [block.to_dict() for block in said.content],
            said.model,
            said.stop_reason,
            {name: count for name, count in said.usage.to_dict().items() if type(count) is int},
            said.stop_details.explanation if said.stop_details else None,
        )


def _verdict(error: Any) -> Exception:
    """What an error of the API means for the message: later, by backoff, or never."""
    said = (error.api_message or error.message).rstrip(".")
    if error.status_code < 400:  # an error event in the middle of a stream
        return ConnectionError(f"The Anthropic API broke off its answer: {said}.")
    return verdict(
        error.status_code, error.response.headers, f"The Anthropic API answered {error.status_code}: {said}."
    )
