"""Runs an agent of the Agents SDK for one attempt, and writes its tool calls into the log."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from agents import Agent, RunConfig, Runner

from service.agents.adapters.approvals import ask_approval
from service.agents.adapters.history import text_exchanges
from service.agents.adapters.openai_agents.parts import Steps
from service.agents.contract import Context
from service.agents.texts import json_or_text
from service.agents.tool_events import ToolCall, ToolResult, plain, write_event, write_tool_event


class AgentRunner:
    def __init__(
        self, context: Context, agent: Agent[Any], run_context: Any, max_turns: int, run_config: RunConfig | None
    ) -> None:
        self._context = context
        self._run_context = run_context
        self._max_turns = max_turns
        self._steps = Steps(context)
        config = run_config or RunConfig(tracing_disabled=True)
        note_failures = self._steps.formatter(config.tool_error_formatter)
        self._config = dataclasses.replace(config, tool_error_formatter=note_failures)
        self._agent = self._steps.copy_of(agent, self._config.model_provider)
        self._names: dict[str, str] = {}  # of the tools, by the id of a call

    async def run(
        self,
        make_input: Callable[[Context, Any], Any],
        message: Any,
        output: Callable[[Any], Any] | None,
        history: int,
        history_tokens: int,
    ) -> Any:
        """The agent's result as JSON."""
        given = make_input(self._context, message)
        given = await given if inspect.isawaitable(given) else given
        asked = [{"role": "user", "content": given}] if isinstance(given, str) else given
        begin: Any = [*await self._history(history, history_tokens), *asked]
        number = 0
        while True:
            found = await self._run(begin)
            if not found.interruptions:
                return plain(found.final_output if output is None else output(found.final_output))
            number += 1
            begin = found.to_state()
            calls = [_call(item) for item in found.interruptions]
            reasons = await ask_approval(self._context, f"approval {number}", calls)
            for item, reason in zip(found.interruptions, reasons, strict=True):
                if reason is None:
                    begin.approve(item)
                else:
                    begin.reject(item, rejection_message=reason)

    async def _run(self, begin: Any) -> Any:
        result = Runner.run_streamed(
            self._agent,
            begin,
            context=self._run_context,
            max_turns=self._max_turns,
            run_config=self._config,
        )
        try:
            async for event in result.stream_events():
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                    await self._steps.emit(event.data.delta)  # of a model that is not copied
                elif event.type == "run_item_stream_event":
                    await self._write(event.item)
                elif event.type == "agent_updated_stream_event" and event.new_agent is not self._agent:
                    await write_event(self._context, "progress", agent=event.new_agent.name)
        except Exception as error:
            if (failure := self._steps.failure) is None or failure is error:
                raise
            raise failure from error
        finally:
            result.cancel()  # ends the run that goes on beside the stream
        if (failure := self._steps.failure) is not None:
            raise failure
        return result

    async def _history(self, limit: int, max_tokens: int) -> list[dict[str, str]]:
        items: list[dict[str, str]] = []
        for question, answer in await text_exchanges(self._context, limit, max_tokens):
            items += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return items

    async def _write(self, item: Any) -> None:
        """Write the event for an item of the run."""
        raw = item.raw_item
        if item.type == "tool_call_item":
            call = _call(item)
            self._names[call.id] = call.name
            await write_tool_event(self._context, call)
        elif item.type == "tool_call_output_item":
            id = str(_field(raw, "call_id") or "")
            await write_tool_event(self._context, ToolResult(id, self._names.get(id, ""), plain(item.output)))
        elif item.type == "reasoning_item":
            text = "\n\n".join(part.text for part in raw.summary or ())
            if text:
                await write_event(self._context, "thinking", content=text)


def _call(item: Any) -> ToolCall:
    """A call of a tool in the form of its event."""
    raw = item.raw_item
    arguments = _field(raw, "arguments")
    given = json_or_text(arguments) if isinstance(arguments, str) else arguments
    return ToolCall(
        str(_field(raw, "call_id") or _field(raw, "id") or ""), str(_field(raw, "name") or _raw_type(raw)), given
    )


def _raw_type(raw: Any) -> str:
    return str(_field(raw, "type") or "tool")


def _field(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)
