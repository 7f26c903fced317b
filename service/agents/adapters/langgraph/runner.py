"""Runs a graph for each attempt, with the checkpointer that it has or needs."""

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from service.agents.adapters.langgraph.asked import MEMORY_KEY, Asked, asked_of
from service.agents.adapters.langgraph.attempt import Attempt
from service.agents.adapters.langgraph.events import is_from_model, message_text
from service.agents.adapters.langgraph.inputs import read_input
from service.agents.adapters.langgraph.source import Source
from service.agents.contract import Context
from service.agents.http_errors import refuses_request
from service.agents.thread_bridge import ThreadBridge
from service.agents.tool_events import plain, write_event


class Runner:
    def __init__(
        self,
        name: str,
        graph: Any,
        input: Callable[[Context, Any], Any] | None,
        *,
        output: str | Callable[[Any], Any] | None,
        checkpointer: Any,
        nodes: Collection[str] | None,
        keep_state: bool,
    ) -> None:
        self._name = name
        self._source = Source(graph)
        self._input = input
        self._output = output
        self._checkpointer = checkpointer
        self._nodes = nodes
        self._keep_state = keep_state

    @property
    def graph(self) -> Any:
        """The compiled graph; None if a function makes it later."""
        return self._source.graph

    async def run(self, context: Context, message: Any) -> Any:
        """Run the graph for one attempt, and return the agent's result as JSON."""
        asked = asked_of(context.metadata)
        keeps_state = self._input is None and (
            self._keep_state or asked is not None or self._name in context.memory.get(MEMORY_KEY, {})
        )
        async with self._with_checkpointer(context, asked) as found:
            graph = found.copy(stops) if asked is not None and (stops := asked.breakpoints(found)) else found
            has_checkpoints, outlast_worker = _checkpoints(graph)
            if not keeps_state and asked is None:
                attempt = Attempt(self, context, message, graph)
                final = await attempt.run(has_checkpoints=has_checkpoints, outlast_worker=outlast_worker)
            else:
                final = await self._run_with_state(
                    context, message, graph, asked, keeps_state=keeps_state, outlast_worker=outlast_worker
                )
        return plain(self._result(final))

    async def _run_with_state(
        self,
        context: Context,
        message: Any,
        graph: Any,
        asked: Asked | None,
        *,
        keeps_state: bool,
        outlast_worker: bool,
    ) -> Any:
        """With checkpoints that Treadle keeps, unless the graph's own outlast the worker."""
        from service.agents.adapters.langgraph.thread_state import ThreadState, make_saver

        if not outlast_worker:
            graph = graph.copy({"checkpointer": make_saver()})
        make = functools.partial(
            ThreadState,
            context,
            self._name,
            keeps_state=keeps_state,
            is_saver=not outlast_worker,
            keeps_earlier=asked is not None,
        )
        checkpoint = None if asked is None else asked.checkpoint
        state = make(saver=graph.checkpointer, checkpoint=checkpoint)
        await state.begin()
        run = functools.partial(Attempt, self, context, message)
        try:
            final = await run(graph, asked, state).run(has_checkpoints=True, outlast_worker=True)
        except Exception as error:  # the state may be larger than what the model reads
            if checkpoint is not None or not refuses_request(error) or not await state.has_only_begun():
                raise
            await write_event(context, "state_dropped", reason=f"the model refuses the request: {error}")
            graph = graph.copy({"checkpointer": make_saver()})
            state = make(saver=graph.checkpointer, checkpoint="")  # with the texts of the thread only
            await state.begin()
            final = await run(graph, asked, state).run(has_checkpoints=True, outlast_worker=True)
        await state.save()
        return final

    @contextlib.asynccontextmanager
    async def _with_checkpointer(self, context: Context, asked: Asked | None) -> AsyncIterator[Any]:
        given: dict[str, Any] = asked.options if asked is not None else {"configurable": {}}
        config = {**given, "configurable": {**given["configurable"], "thread_id": context.message_id}}
        async with self._source.made(config) as made, contextlib.AsyncExitStack() as stack:
            bridge = ThreadBridge()
            stack.callback(bridge.close)
            graph = _with_store(made, context, bridge)
            if self._checkpointer is None:
                yield graph
                return
            saver = self._checkpointer
            if callable(saver):
                saver = await stack.enter_async_context(saver())
            yield graph.copy({"checkpointer": saver})

    async def start(self, context: Context, message: Any, asked: Asked | None, *, has_state: bool) -> Any:
        """What the graph begins with."""
        if self._input is None:
            return await read_input(context, message, is_asked=asked is not None, has_state=has_state)
        start = self._input(context, message)
        return await start if inspect.isawaitable(start) else start

    def streams(self, metadata: Any) -> bool:
        """Whether the tokens of the node are the answer."""
        return self._nodes is None or metadata.get("langgraph_node") in self._nodes

    def _result(self, state: Any) -> Any:
        if callable(self._output):
            return self._output(state)
        if self._output is not None:
            return state[self._output]
        messages = state.get("messages") if isinstance(state, dict) else None
        if isinstance(messages, list):
            for message in reversed(messages):
                if is_from_model(message):
                    return message_text(message)
        return state


def _with_store(graph: Any, context: Context, bridge: ThreadBridge) -> Any:
    """With the store of the message's subject, unless the graph has its own."""
    from service.agents.adapters.langgraph.item_store import ItemStore, UsesStore

    if getattr(graph, "store", None) is not None or not isinstance(context, UsesStore):
        return graph
    return graph.copy({"store": ItemStore(context, bridge)})


def _checkpoints(graph: Any) -> tuple[bool, bool]:
    """Whether the graph has checkpoints, and whether they outlast the worker."""
    from langgraph.checkpoint.memory import InMemorySaver

    return bool(graph.checkpointer), bool(graph.checkpointer) and not isinstance(graph.checkpointer, InMemorySaver)
