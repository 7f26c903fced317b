"""Runs a Pydantic AI agent for one attempt, and writes its tool calls into the log."""

import inspect
from collections.abc import AsyncIterable, Callable, Sequence
from typing import Any

from pydantic_ai import Agent, DeferredToolRequests, DeferredToolResults, ToolDenied
from pydantic_ai.capabilities import ReinjectSystemPrompt
from pydantic_ai.messages import (
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import infer_model

from service.agents.adapters.approvals import ask_approval
from service.agents.adapters.history import text_exchanges
from service.agents.adapters.pydantic_ai.parts import StepModel, StepToolset
from service.agents.contract import Context, Rejected
from service.agents.thread_bridge import LoopExecutor
from service.agents.tool_events import ToolCall, ToolResult, ToolSteps, plain, write_tool_event


class Runner:
    def __init__(self, context: Context, agent: Agent[Any, Any], deps: Any, *, stream: bool) -> None:
        self._context = context
        self._agent = agent
        self._deps = deps
        if agent.model is None:
            raise Rejected("The Pydantic AI agent has no model: name one when you make it.")
        self._model = StepModel(infer_model(agent.model), context, stream=stream)
        steps = ToolSteps()
        self._toolsets = [StepToolset(toolset, context, steps) for toolset in agent.toolsets]

    async def run(
        self,
        make_prompt: Callable[[Context, Any], Any],
        message: Any,
        output: Callable[[Any], Any] | None,
        history: int,
        history_tokens: int,
    ) -> Any:
        """The agent's result as JSON."""
        prompt = make_prompt(self._context, message)
        prompt = await prompt if inspect.isawaitable(prompt) else prompt
        messages: Sequence[ModelMessage] = await self._history(history, history_tokens)
        answers: DeferredToolResults | None = None
        number = 0
        while True:
            found = await self._run(prompt, messages, answers)
            if not isinstance(found.output, DeferredToolRequests):
                return plain(found.output if output is None else output(found.output))
            number += 1
            prompt, messages = None, found.all_messages()
            answers = await self._answers(number, found.output)

    async def _run(self, prompt: Any, messages: Sequence[ModelMessage], answers: DeferredToolResults | None) -> Any:
        declared = self._agent.output_type
        kinds = list(declared) if isinstance(declared, list | tuple) else [declared]
        if DeferredToolRequests not in kinds:
            kinds.append(DeferredToolRequests)
        # In the forty threads of Pydantic AI, as many hung sync tools would stop all others, uncounted.
        threads = self._agent.using_thread_executor(LoopExecutor())
        with threads, self._agent.override(model=self._model, toolsets=self._toolsets, tools=[]):
            return await self._agent.run(
                prompt,
                output_type=kinds,
                message_history=messages or None,
                deferred_tool_results=answers,
                deps=self._deps,
                event_stream_handler=self._write,
                capabilities=[ReinjectSystemPrompt()],  # else a history would take its place
            )

    async def _history(self, limit: int, max_tokens: int) -> list[ModelMessage]:
        messages: list[ModelMessage] = []
        for question, answer in await text_exchanges(self._context, limit, max_tokens):
            messages += [ModelRequest([UserPromptPart(question)]), ModelResponse([TextPart(answer)])]
        return messages

    async def _write(self, _: Any, events: AsyncIterable[Any]) -> None:
        async for event in events:
            if isinstance(event, FunctionToolCallEvent):
                await write_tool_event(self._context, _call(event.part))
            elif isinstance(event, FunctionToolResultEvent):
                part = event.part
                failed = isinstance(part, RetryPromptPart)
                result = ToolResult(part.tool_call_id, part.tool_name or "", plain(part.content), failed)
                await write_tool_event(self._context, result)

    async def _answers(self, number: int, asked: DeferredToolRequests) -> DeferredToolResults:
        """What a person says of the calls that need approval, and the outputs of those that the client runs."""
        answers = DeferredToolResults()
        if asked.approvals:
            calls = [_call(part) for part in asked.approvals]
            reasons = await ask_approval(self._context, f"approval {number}", calls)
            for call, reason in zip(calls, reasons, strict=True):
                answers.approvals[call.id] = True if reason is None else ToolDenied(reason)
        if asked.calls:
            functions = [{"name": part.tool_name, "arguments": part.args_as_dict()} for part in asked.calls]
            outputs = await self._context.input({"function_calls": functions}, name=f"tools {number}")
            if not isinstance(outputs, list) or len(outputs) != len(functions):
                raise Rejected(
                    f"The client must answer {len(functions)} function calls with a list of as many outputs."
                )
            for part, output in zip(asked.calls, outputs, strict=True):
                answers.calls[part.tool_call_id] = output
        return answers


def _call(part: ToolCallPart) -> ToolCall:
    try:
        given: Any = part.args_as_dict()
    except ValueError:  # the model wrote something else
        given = part.args
    return ToolCall(part.tool_call_id, part.tool_name, given)
