"""Copies of agents of the Agents SDK, with models and tools that store their results as steps. Imported only when one
runs."""

import copy
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, FunctionTool, Model, ModelProvider, ModelResponse, Usage
from agents.run_config import ToolErrorFormatter, ToolErrorFormatterArgs
from openai.types.responses import Response, ResponseCompletedEvent, ResponseOutputItem
from pydantic import TypeAdapter

from service.agents.contract import Context, Rejected, RetryAfter, Unacceptable
from service.agents.raised import decisive, decisive_of, said
from service.agents.tool_events import ToolSteps, plain

OUTPUT: TypeAdapter[Any] = TypeAdapter(list[ResponseOutputItem])


class Steps:
    """The steps of one attempt, and the text that the models say."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._decisive: list[Exception] = []  # what tools have raised to decide about the message
        self._failures: dict[str, Exception] = {}  # the same while a tool runs, by the id of its call
        self._tools = ToolSteps()
        self._calls = 0
        self._needs_blank_line = False
        self._said = False

    @property
    def failure(self) -> BaseException | None:
        """Of the tools, if one decides about the message."""
        return decisive_of(self._decisive) if self._decisive else None

    def begin_answer(self) -> str:
        """The name of the step of the next answer. A blank line separates the texts of two answers. Raises the failure
        of the tools: all of the last answer have ended."""
        if self.failure is not None:
            raise self.failure
        self._calls += 1
        self._needs_blank_line, self._said = self._needs_blank_line or self._said, False
        return f"model {self._calls}"

    async def emit(self, text: str) -> None:
        if text:
            await self.context.emit(f"\n\n{text}" if self._needs_blank_line else text)
            self._needs_blank_line, self._said = False, True

    async def emit_output(self, output: Any) -> None:
        """The text of an answer that was not streamed."""
        for item in output:
            for part in item.content if item.type == "message" else ():
                await self.emit(getattr(part, "text", ""))

    def copy_of(self, agent: Agent[Any], provider: ModelProvider) -> Agent[Any]:
        """The agent, and the agents that it hands over to, with models and tools that store their results. An agent
        behind a Handoff object stays as it is."""
        copies: dict[int, Agent[Any]] = {}

        def copied(original: Agent[Any]) -> Agent[Any]:
            if id(original) not in copies:
                model = original.model if isinstance(original.model, Model) else provider.get_model(original.model)
                tools = [self._tool(tool) for tool in original.tools]
                copies[id(original)] = own = original.clone(model=StepModel(model, self), tools=tools)
                own.handoffs = [copied(to) if isinstance(to, Agent) else to for to in original.handoffs]
            return copies[id(original)]

        return copied(agent)

    def formatter(self, author: ToolErrorFormatter | None) -> ToolErrorFormatter:
        """Notes what a tool has raised: the SDK makes a text for the model of every exception."""

        def note(raised: ToolErrorFormatterArgs[Any]) -> Any:
            decision = None if raised.error is None else decisive(raised.error)
            # Unacceptable is told to the model: it can call the tool again with other arguments.
            if isinstance(decision, Rejected | RetryAfter) and not isinstance(decision, Unacceptable):
                self._failures[raised.call_id] = decision
            return None if author is None else author(raised)

        return note

    def _tool(self, tool: Any) -> Any:
        if not isinstance(tool, FunctionTool):
            return tool
        own, invoke = copy.copy(tool), tool.on_invoke_tool

        async def on_invoke_tool(context: Any, given: str) -> Any:
            result: Any = None
            ran_now = False

            async def step() -> Any:
                nonlocal result, ran_now
                result, ran_now = await invoke(context, given), True
                if (failure := self._failures.pop(call, None)) is not None:
                    raise failure
                return plain(result)

            call = str(context.tool_call_id)
            try:
                stored = await self.context.step(self._tools.name(tool.name, call), step)
            except (Rejected, RetryAfter) as error:  # raised here, it makes the SDK cancel the tools beside this one
                self._decisive.append(error)
                return said(error)
            return result if ran_now else stored

        own.on_invoke_tool = on_invoke_tool
        return own


class StepModel(Model):
    """The model `wrapped`, with each answer stored as a step. A later attempt receives the answer whole."""

    def __init__(self, wrapped: Model, steps: Steps) -> None:
        self._wrapped = wrapped
        self._steps = steps

    async def get_response(self, *args: Any, **kwargs: Any) -> ModelResponse:
        asked: ModelResponse | None = None

        async def step() -> Any:
            nonlocal asked
            asked = await self._wrapped.get_response(*args, **kwargs)
            self._count(None, asked.usage)
            return OUTPUT.dump_python(asked.output, mode="json", exclude_unset=True)

        stored = await self._steps.context.step(self._steps.begin_answer(), step)
        asked = asked or ModelResponse(output=OUTPUT.validate_python(stored), usage=Usage(), response_id=None)
        await self._steps.emit_output(asked.output)
        return asked

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        asked: Response | None = None

        async def step() -> Any:
            nonlocal asked
            async for event in self._wrapped.stream_response(*args, **kwargs):
                if event.type == "response.output_text.delta":
                    await self._steps.emit(event.delta)
                elif event.type in {"response.completed", "response.incomplete"}:
                    asked = event.response
                elif event.type in {"response.failed", "error"}:
                    raise ConnectionError(f"The model's answer failed: {_reason(event)}.")
            if asked is None:
                raise ConnectionError("The model's stream ended before its answer did.")
            self._count(asked.model, asked.usage)
            return OUTPUT.dump_python(asked.output, mode="json", exclude_unset=True)

        stored = await self._steps.context.step(self._steps.begin_answer(), step)
        if asked is None:
            asked = Response.model_construct(id="stored", output=OUTPUT.validate_python(stored), usage=None)
            await self._steps.emit_output(asked.output)
        yield ResponseCompletedEvent.model_construct(type="response.completed", sequence_number=0, response=asked)

    def _count(self, model: str | None, usage: Any) -> None:
        if usage is not None:
            named = {} if model is None else {"model": model}
            counts = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
            self._steps.context.usage(**named, **counts)


def _reason(event: Any) -> str:
    error = getattr(getattr(event, "response", event), "error", None)
    return str(getattr(error, "message", None) or getattr(event, "message", None) or event.type).rstrip(".")
