"""One streamed call of Anthropic's Messages API, through its SDK. The SDK's own retries are off: the queue retries, and
obeys the API's Retry-After."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from service.agents.rounds.errors import error_for_connection, error_for_status
from service.agents.rounds.model import Call, CallResult, StreamTo

SERVICE = "Anthropic"

# The model stopped before the end of its answer, so that a tool call in it may be incomplete.
CUT_OFF_STOP_REASONS = frozenset({"refusal", "max_tokens", "model_context_window_exceeded"})


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to one call: Anthropic's content blocks, unchanged, and the token counts of its usage."""

    content: list[dict[str, Any]]
    model: str
    stop_reason: str | None
    usage: dict[str, int]
    explanation: str | None = None  # of a refusal

    @property
    def calls(self) -> list[Call]:
        """The complete tool calls; empty if the answer was cut off."""
        if self.stop_reason in CUT_OFF_STOP_REASONS:
            return []
        return [
            Call(block["id"], block["name"], block["input"]) for block in self.content if block["type"] == "tool_use"
        ]

    @property
    def ends_in_a_call(self) -> bool:
        return not self.calls and any(block["type"] == "tool_use" for block in self.content)

    @property
    def is_unfinished(self) -> bool:
        """Whether the model must be called again: it waits for tool results, or the API paused it."""
        return bool(self.calls) or self.stop_reason == "pause_turn"

    @property
    def refusal(self) -> str | None:
        return (self.explanation or "") if self.stop_reason == "refusal" else None

    @property
    def pieces(self) -> Iterator[tuple[str, str]]:
        for block in self.content:
            if block["type"] in {"text", "thinking"}:
                yield block["type"], block[block["type"]]

    @property
    def returnable_content(self) -> list[dict[str, Any]]:
        """The blocks for the next request. The API sends empty text blocks, but refuses to receive them."""
        return [block for block in self.content if block["type"] != "text" or block["text"].strip()]

    @property
    def text(self) -> str:
        return "".join(block["text"] for block in self.content if block["type"] == "text")


class Api:
    """A worker's connection to the API; implements service.agents.rounds.model.Api."""

    answer_type = Answer
    provider = "anthropic"

    def __init__(self, api_key: str, base_url: str | None, model: str) -> None:
        import anthropic  # takes a second to import, and only workers with a key need it

        self.model = model
        self._errors = anthropic.APIStatusError, anthropic.APIConnectionError
        self._client = anthropic.AsyncAnthropic(api_key=api_key, base_url=base_url, max_retries=0)

    async def call(self, request: dict[str, Any], stream_to: StreamTo) -> Answer:
        """Pieces of text are streamed as they arrive, thinking when a block is complete."""
        status_error, connection_error = self._errors
        complete = False
        try:
            async with self._client.messages.stream(**request) as stream:
                async for event in stream:
                    if event.type == "text":
                        await stream_to("text", event.text)
                    elif event.type == "content_block_stop" and event.content_block.type == "thinking":
                        await stream_to("thinking", event.content_block.thinking)
                    complete = complete or event.type == "message_stop"
                if not complete:
                    # The connection was closed early but cleanly: the SDK raises nothing.
                    raise ConnectionError("The stream ended before the answer did.")
                message = await stream.get_final_message()
        except status_error as error:
            raise error_for_status(SERVICE, error) from error
        except connection_error as error:
            raise error_for_connection(SERVICE, error) from error
        return Answer(
            [block.to_dict() for block in message.content],
            message.model,
            message.stop_reason,
            {name: count for name, count in message.usage.to_dict().items() if type(count) is int},
            message.stop_details.explanation if message.stop_details else None,
        )

    def add_answer(self, messages: list[dict[str, Any]], answer: Answer) -> None:
        if messages[-1]["role"] == "assistant":  # the API paused this answer; the next call continues it
            messages[-1]["content"] += answer.returnable_content
        else:
            messages.append({"role": "assistant", "content": answer.returnable_content})

    def add_results(self, messages: list[dict[str, Any]], results: Sequence[CallResult]) -> None:
        blocks = [
            {"type": "tool_result", "tool_use_id": result.id, "content": result.text}
            | ({"is_error": True} if result.failed else {})
            for result in results
        ]
        messages.append({"role": "user", "content": blocks})
