"""Runs a team for one attempt, and writes its messages into the log."""

import asyncio
import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from service.agents.adapters.autogen.kit import Kit
from service.agents.adapters.autogen.messages import AgentOutput, message_content
from service.agents.contract import Overloaded, Rejected
from service.agents.http_errors import NO_MONEY_ERROR_TYPES, OVERLOAD_STATUSES, refuses_request
from service.agents.texts import json_or_text
from service.agents.tool_events import ToolCall, ToolResult, plain, write_event, write_tool_event
from service.waiting import retrieve_exception

CANCEL_SECONDS = 0.3  # for a team to end after its cancellation token is cancelled
STATUS_OF_SDK = re.compile(r"[A-Za-z]{1,100}: Error code: ([0-9]{3})\b")
NO_MONEY = (*NO_MONEY_ERROR_TYPES, "check your plan and billing details")  # as OpenAI says it
NEEDS_KIT_USER = "The team's agent {!r} asks a person directly: make it with kit.user(), which can wait for the answer."


class Runner:
    def __init__(
        self,
        kit: Kit,
        *,
        output: Callable[[Any], Any],
        speakers: Collection[str] | None,
        memory_key: str | None,
    ) -> None:
        self._kit = kit
        self._context = kit.context
        self._output = output
        self._speakers = speakers
        self._memory_key = memory_key

    async def run(self, make: Callable[[Kit], Any], task: Any) -> Any:
        """Make the team, run it, and return the agent's result as JSON."""
        team = await self._make(make)
        saved = self._context.memory.get(self._memory_key) if self._memory_key is not None else None
        begin = task
        if saved is not None:
            from service.agents.adapters.autogen.handoff import answer_handoff

            try:
                await team.load_state(saved)
                begin = answer_handoff(saved, task)
            except Exception as error:  # of whatever the author's agents raise; a retry would find the same state
                team = await self._without_state(make, f"the team cannot load it: {error}")
        try:
            result = await self._run_to_end(team, begin)
        except Exception as error:  # the state may be larger than what the model reads
            if self._memory_key not in self._context.memory or self._kit.stored or not refuses_request(error):
                raise
            team = await self._without_state(make, f"the model refuses the request: {error}")
            result = await self._run_to_end(team, task)
        if self._memory_key is not None:
            self._context.memory[self._memory_key] = plain(await team.save_state())
            if not self._context.memory_fits():
                await self._drop_state("it is larger than a thread's memory may be")
        return result

    async def _run_to_end(self, team: Any, task: Any) -> Any:
        """If the attempt is cancelled, the team is cancelled and has CANCEL_SECONDS to end."""
        from autogen_core import CancellationToken

        token = CancellationToken()
        logging.getLogger("autogen_core").addFilter(is_not_a_cancellation)
        running = asyncio.ensure_future(self._run_team(team, task, token))
        running.add_done_callback(retrieve_exception)
        try:
            return plain(self._output(await asyncio.shield(running)))
        except asyncio.CancelledError:
            token.cancel()  # ends the team's agents; the team's stream waits for them
            await asyncio.wait({running}, timeout=CANCEL_SECONDS)
            running.cancel()
            raise

    async def _make(self, make: Callable[[Kit], Any]) -> Any:
        made = make(self._kit)
        return await made if inspect.isawaitable(made) else made

    async def _without_state(self, make: Callable[[Kit], Any], reason: str) -> Any:
        """Another team: the one before may have loaded a part of the state."""
        await self._drop_state(reason)
        self._kit = Kit(self._context)
        return await self._make(make)

    async def _drop_state(self, reason: str) -> None:
        """Without this, every further message of the thread would fail for the same reason."""
        assert self._memory_key is not None
        self._context.memory.pop(self._memory_key, None)
        self._context.log.warning("a team's state is dropped: %s", reason)
        await write_event(self._context, "state_dropped", reason=reason)

    async def _run_team(self, team: Any, task: Any, token: Any) -> Any:
        """Returns AutoGen's TaskResult."""
        tokens: Counter[str] = Counter()
        result: Any = None
        stream = team.run_stream(task=task, cancellation_token=token)
        try:
            async for item in stream:
                if hasattr(item, "stop_reason"):
                    result = item
                else:
                    self._count(tokens, item.models_usage)
                    await self._write(item)
        except BaseException as error:
            token.cancel()
            # The stream waits for its agents, which end by the token. Agents that ignore it are left behind.
            closing = asyncio.ensure_future(stream.aclose())
            closing.add_done_callback(retrieve_exception)
            try:
                await asyncio.wait({closing}, timeout=CANCEL_SECONDS)
            finally:
                closing.cancel()
            self._context.usage(**tokens)
            if not isinstance(error, Exception) or (cause := self._cause(error)) is error:
                raise
            # The cause of a model's error stays: it tells whether the model can be reached.
            raise cause from (cause.__cause__ if cause is self._kit.last_model_error else error)
        self._context.usage(**tokens, stop_reason=result.stop_reason)
        return result

    def _count(self, tokens: Counter[str], usage: Any) -> None:
        """Count the tokens that the team reports, but for those of the kit's models: the kit counts them itself."""
        if usage is None:
            return
        counts = usage.prompt_tokens, usage.completion_tokens
        is_of_kit = self._kit.untold[counts] > 0
        self._kit.untold[counts] -= is_of_kit
        if not is_of_kit:
            tokens.update(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)

    async def _write(self, item: Any) -> None:
        """Write the event for a message or an event of the team."""
        context, source = self._context, item.source
        match item.type:
            case "ModelClientStreamingChunkEvent":
                if self._speakers is None or source in self._speakers:
                    await context.emit(item.content)
            case "ToolCallRequestEvent":
                for call in item.content:
                    event = ToolCall(call.id, call.name, json_or_text(call.arguments), source)
                    await write_tool_event(context, event)
            case "ToolCallExecutionEvent":
                for done in item.content:
                    result = ToolResult(done.call_id, done.name, done.content, bool(done.is_error), source)
                    await write_tool_event(context, result)
            case "ThoughtEvent":
                await write_event(context, "thinking", source=source, content=item.content)
            case "UserInputRequestedEvent":
                if source not in self._kit.questions:
                    raise Rejected(NEEDS_KIT_USER.format(source))
            case _:
                said = AgentOutput(source, item.type, message_content(item))
                await write_event(context, "message", **plain(said))

    def _cause(self, error: Exception) -> Exception:
        """The error of a model call, which a team raises as a RuntimeError whose text is a traceback. Only that text is
        left of a model without the kit's wrapper."""
        text, _, _ = str(error).partition("\nTraceback:")
        model_error = self._kit.last_model_error
        if model_error is not None and text == f"{type(model_error).__name__}: {model_error}":
            return model_error
        if type(error) is not RuntimeError:
            return error
        return Overloaded(text) if _is_overload(text) else RuntimeError(text)


def _is_overload(text: str) -> bool:
    """Whether it is the text of an error of OpenAI's or Anthropic's SDK, after the name of its class, that says so."""
    found = STATUS_OF_SDK.match(text)
    return found is not None and int(found[1]) in OVERLOAD_STATUSES and not any(map(text.count, NO_MONEY))


def is_not_a_cancellation(record: logging.LogRecord) -> bool:
    """AutoGen logs the cancellation of an agent as an error with a traceback; this filter drops it."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)
