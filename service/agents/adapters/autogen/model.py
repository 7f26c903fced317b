"""An AutoGen model that stores each answer as a step of the message. Imported only when a team is made with one."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, CreateResult, LLMMessage, ModelInfo, RequestUsage
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

if TYPE_CHECKING:
    from service.agents.adapters.autogen.kit import Kit


class StepClient(ChatCompletionClient):
    """The model `client`, whose answers `kit` stores as steps. `name` begins the names of its steps."""

    def __init__(self, client: ChatCompletionClient, kit: "Kit", name: str) -> None:
        self._client = client
        self._kit = kit
        self._name = name

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] = {},
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        async def call_model() -> Any:
            answer = await self._client.create(
                messages,
                tools=tools,
                tool_choice=tool_choice,
                json_output=json_output,
                extra_create_args=extra_create_args,
                cancellation_token=cancellation_token,
            )
            return self._paid(answer)

        arguments = _arguments(messages, tools, tool_choice, json_output, extra_create_args)
        task = self._step(arguments, call_model, cancellation_token)
        return self._told(await task)

    async def create_stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] = {},
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        async def call_model() -> Any:
            answer: CreateResult | None = None
            async for item in self._client.create_stream(
                messages,
                tools=tools,
                tool_choice=tool_choice,
                json_output=json_output,
                extra_create_args=extra_create_args,
                cancellation_token=cancellation_token,
            ):
                if isinstance(item, str):
                    pieces.put_nowait(item)
                else:
                    answer = item
            if answer is None:
                raise ConnectionError("The model's stream ended before its answer did.")
            return self._paid(answer)

        arguments = _arguments(messages, tools, tool_choice, json_output, extra_create_args)
        task = self._step(arguments, call_model, cancellation_token)
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        streamed = False
        try:
            while (piece := await pieces.get()) is not None:
                streamed = True
                yield piece
            answer = self._told(await task)
        finally:
            task.cancel()
        if not streamed and isinstance(answer.content, str) and answer.content:
            yield answer.content  # from an earlier attempt: this one has not streamed it yet
        yield answer

    def _paid(self, answer: CreateResult) -> Any:
        """Count a new answer, in its step: it was paid for though the attempt may fail, and a later one does not count
        it again."""
        self._kit.context.usage(**tokens_of(answer.usage))
        return answer.model_dump(mode="json")

    def _told(self, stored: Any) -> CreateResult:
        """An answer, new or of an earlier attempt, as the team receives it."""
        answer = CreateResult.model_validate(stored)
        self._kit.untold[answer.usage.prompt_tokens, answer.usage.completion_tokens] += 1
        return answer

    def _step(
        self, arguments: Any, call_model: Callable[[], Awaitable[Any]], token: CancellationToken | None
    ) -> asyncio.Future[Any]:
        async def step() -> Any:
            try:
                return await self._kit.step(self._name, arguments, call_model)
            except Exception as error:  # also that the answer cannot be stored
                self._kit.last_model_error = error
                raise

        task = asyncio.ensure_future(step())
        if token is not None:
            token.link_future(task)
        return task

    async def close(self) -> None:
        await self._client.close()

    def actual_usage(self) -> RequestUsage:
        return self._client.actual_usage()

    def total_usage(self) -> RequestUsage:
        return self._client.total_usage()

    def count_tokens(self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()) -> int:
        return self._client.count_tokens(messages, tools=tools)

    def remaining_tokens(self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()) -> int:
        return self._client.remaining_tokens(messages, tools=tools)

    @property
    def capabilities(self) -> Any:  # AutoGen reads it, although it is deprecated
        return self._client.model_info

    @property
    def model_info(self) -> ModelInfo:
        return self._client.model_info


def tokens_of(usage: RequestUsage) -> dict[str, int]:
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}


def _arguments(
    messages: Sequence[LLMMessage],
    tools: Sequence[Tool | ToolSchema],
    tool_choice: Tool | str,
    json_output: bool | type[BaseModel] | None,
    extra: Mapping[str, Any],
) -> list[Any]:
    """What the model receives. Two calls with equal arguments are the same call, at any time and from any agent."""
    return [
        messages,
        [_schema(tool) for tool in tools],
        _schema(tool_choice),
        json_output.model_json_schema() if isinstance(json_output, type) else json_output,
        extra,
    ]


def _schema(tool: Any) -> Any:
    return tool.schema if isinstance(tool, Tool) else tool
