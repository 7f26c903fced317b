"""Streamed calls of an API with OpenAI's chat completions, through OpenAI's SDK. The SDK's own retries are off: the
queue retries, and obeys the API's Retry-After."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import msgspec

from service.agents.contract import Rejected
from service.agents.http_errors import NO_MONEY_ERROR_TYPES
from service.agents.rounds.errors import error_for_connection, error_for_status
from service.agents.rounds.model import Call, CallResult, StreamTo
from service.agents.texts import json_or_text

SERVICE = "OpenAI"
# The model stopped before the end of its answer, so that a tool call in it may be incomplete.
CUT_OFF_STOP_REASONS = frozenset({"length", "content_filter"})


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to one call. `thinking` is what some servers tell of it."""

    text: str
    model: str
    stop_reason: str | None
    usage: dict[str, int]
    tool_calls: list[Call] = []
    thinking: str = ""
    refused: str | None = None

    @property
    def pieces(self) -> Iterator[tuple[str, str]]:
        yield from (("thinking", self.thinking), ("text", self.text))

    @property
    def calls(self) -> list[Call]:
        return [] if self.stop_reason in CUT_OFF_STOP_REASONS else self.tool_calls

    @property
    def ends_in_a_call(self) -> bool:
        return bool(self.tool_calls) and not self.calls

    @property
    def is_unfinished(self) -> bool:
        return bool(self.calls)

    @property
    def refusal(self) -> str | None:
        return "the content filter stopped it" if self.stop_reason == "content_filter" else self.refused


class Api:
    """A worker's connection to the API; implements service.agents.rounds.model.Api."""

    answer_type = Answer
    provider = "openai"

    def __init__(self, api_key: str, base_url: str | None, model: str) -> None:
        import openai  # takes a second to import, and only workers with a key need it

        self.model = model
        self.is_openai = base_url is None
        self._client = openai.AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0)

    async def call(self, request: dict[str, Any], stream_to: StreamTo) -> Answer:
        reading = _Reading()
        async with aclosing(self.chunks(request)) as chunks:
            async for chunk in chunks:
                if text := reading.add(chunk):
                    await stream_to("text", text)
        answer = reading.answer(self.model)
        if answer.thinking:
            await stream_to("thinking", answer.thinking)
        return answer

    async def chunks(self, request: dict[str, Any], role: str | None = None) -> AsyncGenerator[Any, None]:
        """The chunks of a stream. `role` is the member of a team that asks. Raises as service.agents.rounds.model.Api
        says, and ConnectionError if the stream ends early."""
        import openai

        finished = False
        try:
            stream = await self._client.chat.completions.create(
                **{"stream_options": {"include_usage": True}, **request}, stream=True
            )
            async with stream:
                async for chunk in stream:
                    finished = finished or any(choice.finish_reason for choice in chunk.choices)
                    yield chunk
        except openai.APIConnectionError as error:
            raise error_for_connection(SERVICE, error, role) from error
        except openai.APIError as error:
            if error.code in NO_MONEY_ERROR_TYPES:
                raise Rejected(f"The {SERVICE} API refuses to answer: {error.message}") from error
            raise error_for_status(SERVICE, error, role) from error
        if not finished:
            # The connection was closed early but cleanly: the SDK raises nothing.
            raise ConnectionError("The stream ended before the answer did.")

    def add_answer(self, messages: list[dict[str, Any]], answer: Answer) -> None:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _as_text(call.input)}}
            for call in answer.calls
        ]
        messages.append({"role": "assistant", "content": answer.text or None, "tool_calls": calls})

    def add_results(self, messages: list[dict[str, Any]], results: Sequence[CallResult]) -> None:
        messages += [{"role": "tool", "tool_call_id": result.id, "content": result.text} for result in results]


class _Reading:
    """Collects the chunks of one answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._model = ""
        self._stop_reason: str | None = None
        self._usage: dict[str, int] = {}

    def add(self, chunk: Any) -> str:
        """Returns the text of the chunk."""
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            self._usage = tokens_of(chunk.usage)
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        self._stop_reason = choice.finish_reason or self._stop_reason
        delta = choice.delta
        for part in delta.tool_calls or ():
            self._add_call(part)
        thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        for value, kept in ((thought, self._thinking), (delta.refusal, self._refusal), (delta.content, self._texts)):
            if isinstance(value, str) and value:
                kept.append(value)
        return delta.content or ""

    def _add_call(self, part: Any) -> None:
        call = next((call for call in reversed(self._calls) if call["index"] == part.index), None)
        if call is None or (part.id and call["id"] and part.id != call["id"]):  # some servers number every call 0
            call = {"index": part.index, "id": "", "name": "", "arguments": ""}
            self._calls.append(call)
        call["id"] = part.id or call["id"]
        if part.function is not None:
            call["name"] = part.function.name or call["name"]
            call["arguments"] += part.function.arguments or ""

    def answer(self, model: str) -> Answer:
        return Answer(
            "".join(self._texts),
            self._model or model,
            self._stop_reason,
            self._usage,
            [
                Call(call["id"] or f"call_{uuid4().hex}", call["name"], json_or_text(call["arguments"] or "{}"))
                for call in self._calls
            ],
            "".join(self._thinking),
            "".join(self._refusal) or None,
        )


def tokens_of(usage: Any) -> dict[str, int]:
    """The token counts by the names of the Messages API, which all agents use: those from a cache do not count as
    input."""
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    counts = {"input_tokens": (usage.prompt_tokens or 0) - cached, "output_tokens": usage.completion_tokens or 0}
    return counts | ({"cache_read_input_tokens": cached} if cached else {})


def _as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
