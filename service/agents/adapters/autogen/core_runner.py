"""Runs a runtime of AutoGen core for one attempt. Imported only when one runs."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from autogen_core import (
    AgentId,
    BaseAgent,
    CancellationToken,
    MessageContext,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
)

from service.agents.adapters.autogen.kit import Kit
from service.agents.adapters.autogen.messages import AgentOutput
from service.agents.adapters.autogen.runner import CANCEL_SECONDS, is_not_a_cancellation
from service.agents.tool_events import plain, write_event

COLLECTOR = "treadle_output"  # the type of the agent that receives messages to the output topics


class CoreRunner:
    def __init__(
        self, kit: Kit, *, recipient: Any, output: Callable[[Any], Any] | None, output_topics: Collection[str]
    ) -> None:
        self._kit = kit
        self._recipient = recipient
        self._output = output or _content
        self._output_topics = output_topics
        self._published: list[Any] = []  # the last message to an output topic

    async def run(self, make: Callable[[Kit], Any], message: Any) -> Any:
        """Make the runtime, send it the message, and return the agent's result as JSON once no agent is at work."""
        made = make(self._kit)
        runtime: SingleThreadedAgentRuntime = await made if inspect.isawaitable(made) else made
        logging.getLogger("autogen_core").addFilter(is_not_a_cancellation)
        await self._collect(runtime)
        token = CancellationToken()
        runtime.start()
        # AutoGen has no public name for the task in which a runtime handles its messages.
        processing: asyncio.Task[None] | None = getattr(getattr(runtime, "_run_context", None), "_run_task", None)
        try:
            answer = await _while_it_runs(processing, self._exchange(runtime, message, token))
            await runtime.stop_when_idle()
        except BaseException:
            token.cancel()
            stopping = asyncio.gather(
                _stop(runtime, processing), return_exceptions=True
            )  # it raises what has stopped the runtime
            await asyncio.wait({stopping}, timeout=CANCEL_SECONDS)
            stopping.cancel()
            raise
        await runtime.close()
        if isinstance(self._recipient, TopicId) or (answer is None and self._published):
            if not self._published:
                raise self._kit.last_model_error or RuntimeError(
                    f"The agents have published nothing to a topic of the type {' or '.join(self._output_topics)}."
                )
            answer = self._published[0]
        return plain(self._output(answer))

    async def _exchange(self, runtime: SingleThreadedAgentRuntime, message: Any, token: CancellationToken) -> Any:
        if isinstance(self._recipient, TopicId):
            await runtime.publish_message(message, self._recipient, cancellation_token=token)
            return None
        key = self._kit.context.thread_id or "default"
        to = self._recipient if isinstance(self._recipient, AgentId) else AgentId(self._recipient, _key(key))
        return await runtime.send_message(message, to, cancellation_token=token)

    async def _collect(self, runtime: SingleThreadedAgentRuntime) -> None:
        await Collector.register(runtime, COLLECTOR, lambda: Collector(self._keep))
        for topic in self._output_topics:
            await runtime.add_subscription(TypeSubscription(topic, COLLECTOR))

    async def _keep(self, message: Any, context: MessageContext) -> None:
        self._published = [message]
        source = context.sender.type if context.sender else ""
        said = AgentOutput(source, type(message).__name__, plain(_content(message)))
        await write_event(self._kit.context, "message", **plain(said))


class Collector(BaseAgent):
    """Receives messages of every type."""

    def __init__(self, keep: Callable[[Any, MessageContext], Any]) -> None:
        super().__init__("Writes messages into the log.")
        self._keep = keep

    async def on_message_impl(self, message: Any, ctx: MessageContext) -> None:
        await self._keep(message, ctx)


async def _while_it_runs(processing: asyncio.Task[None] | None, exchange: Coroutine[Any, Any, Any]) -> Any:
    """The answer. A runtime that does not ignore the failure of an agent stops with it, and then no answer comes any
    more: the failure is raised."""
    asking = asyncio.ensure_future(exchange)
    try:
        await asyncio.wait({asking, *([processing] if processing else [])}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done() and processing is not None:
            processing.result()
        return await asking
    finally:
        asking.cancel()


async def _stop(runtime: SingleThreadedAgentRuntime, processing: asyncio.Task[None] | None) -> None:
    """Stop the runtime, and the tasks of its agents, which have no public name either: one may wait for an answer that
    only a later attempt gets. A runtime that was to stop when idle does not stop its own task any more."""
    tasks = {*getattr(runtime, "_background_tasks", ()), *([processing] if processing else [])}
    try:
        await runtime.stop()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _content(message: Any) -> Any:
    return getattr(message, "content", message)


def _key(thread_id: str) -> str:
    """A thread's id as the key of an agent."""
    return "".join(char if 32 <= ord(char) < 127 else "_" for char in thread_id)
