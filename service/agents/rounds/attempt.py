"""One attempt at a message: rounds of a model call and the tools that it calls, until the model has finished.

Each model call that is not the last, and each tool call, is a durable step. A later attempt receives their results and
continues with the first call that has none.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from service.agents.contract import Context, Rejected
from service.agents.model_calls import model_call
from service.agents.raised import decisive_of
from service.agents.rounds.client_tools import ask_client
from service.agents.rounds.conversation import Conversation
from service.agents.rounds.errors import RequestRefused
from service.agents.rounds.model import Api, Call, CallResult, ModelAnswer
from service.agents.rounds.options import ModelOptions
from service.agents.rounds.request import client_tools
from service.agents.rounds.tools import Output
from service.agents.tool_events import ToolCall, ToolResult, write_event, write_tool_event

MAX_STEP_TOOL_CHARS = 100  # of the tool's name in the name of its step


class _FinalAnswer(Exception):
    """Carries the last answer out of its step, so that the step stores nothing: completing the message stores it."""

    def __init__(self, answer: ModelAnswer) -> None:
        self.answer = answer


class Attempt:
    def __init__(self, options: ModelOptions, api: Api, context: Context) -> None:
        self._options = options
        self._api = api
        self._context = context
        self._client_tools = {tool.name for tool in client_tools(context, options)}
        self._texts = [""]  # one text for each round
        self._needs_blank_line = False  # the next text begins a round, and an earlier round had text

    async def run(self, request: dict[str, Any], conversation: Conversation) -> str:
        """Returns the text of the last round that has text. `request` is the first one, and the conversation its
        `messages`."""
        messages = conversation.messages
        for number in range(1, self._options.max_calls + 1):
            answer = await self._call_model(number, request, conversation)
            self._texts[-1] += answer.text
            if answer.refusal is not None:
                raise Rejected(f"The model refuses to answer{f': {answer.refusal}' if answer.refusal else '.'}")
            if not answer.is_unfinished:
                if answer.ends_in_a_call:
                    raise Rejected(f"The model's answer ended in the middle of a tool call: {answer.stop_reason}.")
                return next((text for text in reversed(self._texts) if text.strip()), "")
            self._api.add_answer(messages, answer)
            if answer.calls:
                self._api.add_results(messages, await self._call_tools(number, answer.calls))
                self._needs_blank_line = self._needs_blank_line or bool(self._texts[-1].strip())
                self._texts.append("")
        raise Rejected(f"The model was called {self._options.max_calls} times (max_calls) and has not finished.")

    async def _call_model(self, number: int, request: dict[str, Any], conversation: Conversation) -> ModelAnswer:
        """The model's answer in this round: from an earlier attempt's step, or from a call."""
        streamed = False

        async def call() -> Any:
            nonlocal streamed
            streamed = True
            answer = await self._ask(request, conversation)
            self._count(answer)  # in its step: an attempt that receives the stored answer does not count it again
            if not answer.is_unfinished:
                raise _FinalAnswer(answer)
            return answer

        call.__annotations__["return"] = self._api.answer_type
        try:
            answer: ModelAnswer = await self._context.step(f"round {number}", call)
        except _FinalAnswer as final:
            return final.answer
        if not streamed:
            for kind, text in answer.pieces:
                await self._stream(kind, text)
        return answer

    async def _ask(self, request: dict[str, Any], conversation: Conversation) -> ModelAnswer:
        """Call the model; if the API refuses the request, call it again with less history."""
        while True:
            try:
                with model_call(self._api.provider, request["model"]) as told:
                    answer: ModelAnswer = await self._api.call(request, self._stream)
                    told.model, told.stop_reason, told.usage = answer.model, answer.stop_reason, answer.usage
                return answer
            except RequestRefused as refused:
                if (left_out := conversation.leave_out(str(refused))) is None:
                    raise
                await write_event(self._context, "history", **left_out, reason=str(refused))

    async def _stream(self, kind: str, text: str) -> None:
        """Emit text and thinking; a blank line separates the texts of two rounds."""
        if kind == "thinking" and text:
            await write_event(self._context, "thinking", content=text)
        elif text:
            await self._context.emit(f"\n\n{text}" if self._needs_blank_line else text)
            self._needs_blank_line = False

    async def _call_tools(self, number: int, calls: Sequence[Call]) -> list[CallResult]:
        """Run the tools of a round concurrently, and then ask for those that the client runs.

        An exception of one tool ends the attempt after the others have finished, so that a later attempt need not call
        those again.
        """
        for call in calls:
            await write_tool_event(self._context, ToolCall(call.id, call.name, call.input))
        own = [
            self._call_tool(f"tool {number}.{place} {call.name[:MAX_STEP_TOOL_CHARS]}", call)
            for place, call in enumerate(calls, 1)
            if call.name not in self._client_tools
        ]
        results = await asyncio.gather(*own, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise decisive_of(errors)
        found = [result for result in results if not isinstance(result, BaseException)]
        if theirs := [call for call in calls if call.name in self._client_tools]:
            found += await ask_client(self._context, number, theirs)
        return found

    async def _call_tool(self, step: str, call: Call) -> CallResult:
        async def run() -> Output:
            return await self._options.toolbox.call(self._context, step, call.name, call.input)

        output: Output = await self._context.step(step, run)
        event = ToolResult(call.id, call.name, output.output, failed=output.failed)
        await write_tool_event(self._context, event)
        return CallResult(call.id, output.text, output.failed)

    def _count(self, answer: ModelAnswer) -> None:
        cost = {"cost_usd": self._options.price.dollars(answer.usage)} if self._options.price else {}
        self._context.usage(**{**answer.usage, **cost, "model": answer.model, "stop_reason": answer.stop_reason})
