"""A model and a toolset of Pydantic AI that store their results as steps. Imported only when an agent runs."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext
from pydantic_ai.messages import (
    BinaryContent,
    FileUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolReturn,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset, WrapperToolset

from service.agents.contract import Context
from service.agents.tool_events import ToolSteps, plain, write_event

TOOL_RETURN = "pydantic_ai.ToolReturn"  # the name of its only field marks a result that is no plain JSON
FILES = (BinaryContent, FileUrl)


class StepModel(WrapperModel):
    """The model, with each answer stored as a step. It streams the text of the answer itself, because a later attempt
    receives the answer whole."""

    def __init__(self, wrapped: Model, context: Context, *, stream: bool) -> None:
        super().__init__(wrapped)
        self._context = context
        self._stream = stream
        self._calls = 0
        self._needs_blank_line = False

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        async def ask() -> ModelResponse:
            response = await self.wrapped.request(messages, model_settings, model_request_parameters)
            await self._tell(response)
            return response

        return await self._answer(ask)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        async def ask() -> ModelResponse:
            if not self._stream:
                return await self.request_whole(messages, model_settings, model_request_parameters)
            async with self.wrapped.request_stream(
                messages, model_settings, model_request_parameters, run_context
            ) as streamed:
                async for event in streamed:
                    await self._pass_on(event)
                response = streamed.get()
                if _is_cut(streamed, response):
                    raise ConnectionError("The model's stream ended before its answer did.")
            await self._tell_thoughts(response)
            return response

        response = await self._answer(ask)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters)

    async def request_whole(self, *request: Any) -> ModelResponse:
        response = await self.wrapped.request(*request)
        await self._tell(response)
        return response

    async def _answer(self, ask: Callable[[], Awaitable[ModelResponse]]) -> ModelResponse:
        self._calls += 1
        asked: ModelResponse | None = None

        async def step() -> Any:
            nonlocal asked
            asked = await ask()
            usage = asked.usage
            self._context.usage(
                model=asked.model_name, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens
            )
            [stored] = ModelMessagesTypeAdapter.dump_python([asked], mode="json")
            return stored

        stored = await self._context.step(f"model {self._calls}", step)
        if asked is None:
            [found] = ModelMessagesTypeAdapter.validate_python([stored])
            assert isinstance(found, ModelResponse)
            asked = found
            await self._tell(asked)
        self._needs_blank_line = self._needs_blank_line or any(_text_of(part) for part in asked.parts)
        return asked

    async def _pass_on(self, event: Any) -> None:
        if isinstance(event, PartStartEvent):
            await self._emit(_text_of(event.part))
        elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
            await self._emit(event.delta.content_delta)

    async def _tell(self, response: ModelResponse) -> None:
        await self._tell_thoughts(response)
        for part in response.parts:
            await self._emit(_text_of(part))

    async def _tell_thoughts(self, response: ModelResponse) -> None:
        for part in response.parts:
            if isinstance(part, ThinkingPart) and part.content:
                await write_event(self._context, "thinking", content=part.content)

    async def _emit(self, text: str) -> None:
        """A blank line separates the texts of two answers."""
        if text:
            await self._context.emit(f"\n\n{text}" if self._needs_blank_line else text)
            self._needs_blank_line = False


class StepToolset(WrapperToolset[Any]):
    """The toolset, with each result stored as a step, as JSON."""

    def __init__(self, wrapped: AbstractToolset[Any], context: Context, steps: ToolSteps) -> None:
        super().__init__(wrapped)
        self._context = context
        self._steps = steps

    def visit_and_replace(
        self, visitor: Callable[[AbstractToolset[Any]], AbstractToolset[Any]]
    ) -> AbstractToolset[Any]:
        return StepToolset(self.wrapped.visit_and_replace(visitor), self._context, self._steps)

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: Any) -> Any:
        result: Any = None
        ran_now = False

        async def step() -> Any:
            nonlocal result, ran_now
            result, ran_now = await super(StepToolset, self).call_tool(name, tool_args, ctx, tool), True
            return _to_store(result)

        stored = await self._context.step(self._steps.name(name, str(ctx.tool_call_id)), step)
        return result if ran_now else _from_store(stored)


def _to_store(result: Any) -> Any:
    """The result of a tool as JSON. Images and other files, and what a ToolReturn has beside its value, are stored so
    that a later attempt has them again."""
    kept: dict[str, Any] = {}
    value = result
    if isinstance(result, ToolReturn):
        value = result.return_value
        beside = {"metadata": result.metadata, "tools": result.tools}
        kept = {name: plain(given) for name, given in beside.items() if given is not None}
        if result.content is not None:
            kept["content"] = _dump(UserPromptPart(result.content))
    if _has_files(value):
        return {TOOL_RETURN: {"return_value": _dump(ToolReturnPart(TOOL_RETURN, value, "")), **kept}}
    stored = plain(value)
    return {TOOL_RETURN: {"return_value": stored, **kept}} if kept or _is_marked(stored) else stored


def _is_marked(stored: Any) -> bool:
    return isinstance(stored, dict) and stored.keys() == {TOOL_RETURN}


def _from_store(stored: Any) -> Any:
    if not _is_marked(stored):
        return stored
    kept = {name: _load(given) if _is_dumped(given) else given for name, given in stored[TOOL_RETURN].items()}
    return kept["return_value"] if kept.keys() == {"return_value"} else ToolReturn(**kept)


def _has_files(value: Any) -> bool:
    if isinstance(value, FILES):
        return True
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return any(map(_has_files, parts))


def _dump(part: UserPromptPart | ToolReturnPart) -> Any:
    [request] = ModelMessagesTypeAdapter.dump_python([ModelRequest([part])], mode="json")
    return request


def _is_dumped(stored: Any) -> bool:
    return isinstance(stored, dict) and stored.get("kind") == "request" and "parts" in stored


def _load(stored: Any) -> Any:
    [request] = ModelMessagesTypeAdapter.validate_python([stored])
    [part] = request.parts
    assert isinstance(part, UserPromptPart | ToolReturnPart)
    return part.content


def _is_cut(streamed: StreamedResponse, response: ModelResponse) -> bool:
    """Whether the stream ended before the answer did.

    Of OpenAI's Responses the state tells it. Of the other two clients Pydantic AI takes every clean end of a connection
    for the end of the answer; a whole one has a reason for its end. Some servers with OpenAI's chat completions send
    only the usage after the answer, or the reason in a chunk without a delta, for which `finish_reason` stays None.
    """
    if response.state != "complete":
        return response.state == "incomplete"
    details = response.provider_details or {}
    if "finish_reason" in details or "refusal" in details:
        return False
    match type(streamed).__name__:
        case "OpenAIStreamedResponse":
            return response.finish_reason is not None and not response.usage.has_values()
        case "AnthropicStreamedResponse":
            return True
    return False


def _text_of(part: Any) -> str:
    return part.content if isinstance(part, TextPart) else ""
