"""A LangGraph graph as an agent: tokens as they come, an event for each node, and, with a checkpointer, attempts that
go on where the last one ended.

    from service.agents.adapters.langgraph.agent import langgraph_agent

    assistant = langgraph_agent("assistant", graph, timeout=300)

The graph's thread is the Treadle message: its checkpoints say how far this message has come. The conversation is
Treadle's: by default the thread's history comes before the message in the graph's `messages`.

A graph that asks a person (`interrupt()`, `interrupt_before`, `interrupt_after`) parks the message until there is an
answer, and goes on with it.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from service.agents.adapters.frameworks import require
from service.agents.contract import Context, Rejected
from service.agents.definition import Agent, input_type
from service.agents.http_errors import patient
from service.agents.limits import LimitOptions
from service.agents.tool_events import ToolCall, ToolResult, plain, tell

if TYPE_CHECKING:
    from service.agents.adapters.langgraph.pauses import Stop

HISTORY = 50  # messages of the thread
INTERRUPT = "__interrupt__"  # LangGraph's, in its updates
FORGETFUL = (
    "The graph asks a person (interrupt), whose answer may take longer than this worker lives: give it a checkpointer "
    "that lasts, for example AsyncPostgresSaver."
)


def langgraph_agent(
    name: str,
    graph: Any,
    *,
    input: Callable[[Context, Any], Any] | None = None,
    output: str | Callable[[Any], Any] | None = None,
    checkpointer: Any = None,
    nodes: Collection[str] | None = None,
    **limits: Unpack[LimitOptions],
) -> Agent:
    """Make a graph an agent.

    graph         a compiled graph; a StateGraph; or a function that makes one, called when the first message comes
    input         a function, sync or async, from context and message to the graph's input; its annotation is the
                  message's type. If none: a text is the last of `messages`, after the thread's history, and an object
                  is the graph's input as it is
    output        the result: a key of the final state, or a function of the state. If none: the text of the last
                  message of a model, and the whole state where there is none
    checkpointer  a saver; or a function that makes an async context manager of one, entered for each attempt. If none:
                  the graph's own, if it has one
    nodes         whose tokens are the answer; if none, those of all
    """
    require("langgraph", framework="LangGraph", extra="langgraph")
    runner = _Runner(graph, input or _messages, output, checkpointer, nodes)

    async def answer(context: Context, message: Any) -> Any:
        """Runs a LangGraph graph."""
        return await runner.run(context, message)

    answer.__annotations__["message"] = input_type(input or _messages)
    return Agent(name, answer, **limits)


class _Runner:
    def __init__(
        self,
        graph: Any,
        input: Callable[[Context, Any], Any],
        output: str | Callable[[Any], Any] | None,
        checkpointer: Any,
        nodes: Collection[str] | None,
    ) -> None:
        self._source = graph
        self._graph: Any = None
        self._input = input
        self._output = output
        self._checkpointer = checkpointer
        self._nodes = nodes

    async def run(self, context: Context, message: Any) -> Any:
        async with self._prepared() as graph:
            state = await self._go(context, message, graph)
        return plain(self._result(state))

    async def _go(self, context: Context, message: Any, graph: Any) -> Any:
        """Run the graph, from where the last attempt ended, to its end; returns its state."""
        from langgraph.types import Command

        from service.agents.adapters.langgraph.pauses import Pauses

        config = {"configurable": {"thread_id": context.message_id}}
        durable, lasts = _lasting(graph)
        pauses = Pauses(context, graph, context.message_id)
        stop: Stop | None = None
        while True:
            kept = None
            if durable and (context.attempt > 1 or stop is not None):
                kept = await graph.aget_state(config, subgraphs=True)
            if kept is None or kept.created_at is None:
                start = self._input(context, message)
                start = await start if inspect.isawaitable(start) else start
            elif not kept.tasks:  # it had ended, and only its result was not stored
                return kept.values
            else:
                answers = await pauses.answers(kept, stop) if lasts else {}
                context.log.info("the graph goes on at %s", ", ".join(task.name for task in kept.tasks))
                start = Command(resume=answers) if answers else None
            state, stop = await self._stream(context, graph, start, config, durable)
            if stop is None:
                return state
            if not lasts:
                raise Rejected(FORGETFUL)

    @contextlib.asynccontextmanager
    async def _prepared(self) -> AsyncIterator[Any]:
        """The graph with its checkpointer."""
        if self._graph is None:
            made = self._source() if callable(self._source) else self._source
            self._graph = made.compile() if hasattr(made, "compile") else made
        if self._checkpointer is None:
            yield self._graph
        elif callable(self._checkpointer):
            async with self._checkpointer() as saver:
                yield self._graph.copy({"checkpointer": saver})
        else:
            yield self._graph.copy({"checkpointer": self._checkpointer})

    async def _stream(
        self, context: Context, graph: Any, start: Any, config: Any, durable: bool
    ) -> "tuple[Any, Stop | None]":
        """Run the graph until it ends or waits for a person; returns its state, and what it stopped with."""
        # A super-step is in the database before the next one begins.
        options = {"durability": "sync"} if durable else {}
        state: Any = None
        told: set[str] = set()  # tool calls and results
        stopped, asked = False, {}
        stream = graph.astream(
            start, config, stream_mode=["messages", "custom", "updates", "values"], subgraphs=True, **options
        )
        try:
            async with contextlib.aclosing(stream):
                async for space, mode, data in stream:
                    if mode == "values":
                        state = state if space else data
                    elif mode == "messages":
                        await self._speak(context, *data)
                    elif mode == "custom":
                        await _custom(context, data)
                    elif INTERRUPT in data:
                        stopped = stopped or not space
                        # First told by the graph whose node asks, then by those around it.
                        asked.update({one.id: (one, "|".join(space)) for one in data[INTERRUPT] if one.id not in asked})
                    else:
                        await _updates(context, space, data, told)
        except Exception as error:
            if (verdict := patient(error)) is error:
                raise
            raise verdict from error
        return state, asked if stopped else None

    async def _speak(self, context: Context, message: Any, metadata: Any) -> None:
        chosen = self._nodes is None or metadata.get("langgraph_node") in self._nodes
        if chosen and _is_model(message) and (text := _text(message)):
            await context.emit(text)

    def _result(self, state: Any) -> Any:
        if callable(self._output):
            return self._output(state)
        if self._output is not None:
            return state[self._output]
        messages = state.get("messages") if isinstance(state, dict) else None
        if isinstance(messages, list):
            for message in reversed(messages):
                if _is_model(message):
                    return _text(message)
        return state


def _lasting(graph: Any) -> tuple[bool, bool]:
    """Whether the graph has checkpoints, and whether they outlast the process."""
    from langgraph.checkpoint.memory import InMemorySaver

    return bool(graph.checkpointer), bool(graph.checkpointer) and not isinstance(graph.checkpointer, InMemorySaver)


async def _messages(context: Context, message: str | dict[str, Any]) -> Any:
    """The graph's input where nobody says otherwise."""
    from langchain_core.messages import AIMessage, HumanMessage

    if isinstance(message, dict):
        return message
    exchanges: list[Any] = []
    for exchange in await context.history(HISTORY):
        if isinstance(exchange.message, str) and isinstance(exchange.result, str):
            exchanges += [HumanMessage(exchange.message), AIMessage(exchange.result)]
    return {"messages": [*exchanges, HumanMessage(message)]}


async def _custom(context: Context, data: Any) -> None:
    """What a node writes with get_stream_writer(): {"event": type, "data": ...} is an event of that type, all else
    `progress`."""
    if isinstance(data, dict) and data.keys() == {"event", "data"} and isinstance(data["event"], str):
        await context.event(data["event"], plain(data["data"]))
    else:
        await context.event("progress", plain(data))


async def _updates(context: Context, space: Sequence[str], updates: dict[str, Any], told: set[str]) -> None:
    """One event for each node that ended, one for each tool call and each tool's answer."""
    for node, update in updates.items():
        if node.startswith("__"):
            continue
        for message in _found(update):
            for event in _tools(message):
                key = f"{type(event).__name__} {event.id}"
                if key not in told:  # an outer graph repeats what an inner one wrote
                    told.add(key)
                    await context.event("tool", plain(event))
        path = "/".join([*(part.partition(":")[0] for part in space), node])
        await tell(context, "node", node=path, update=update)


def _found(update: Any) -> list[Any]:
    """The messages in what a node wrote."""
    values = update.values() if isinstance(update, dict) else [update]
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in items if hasattr(item, "content") and hasattr(item, "type")]


def _tools(message: Any) -> list[ToolCall | ToolResult]:
    if message.type == "tool":
        failed = getattr(message, "status", "success") == "error"
        return [ToolResult(message.tool_call_id, message.name or "", message.content, failed)]
    calls = getattr(message, "tool_calls", None) or []
    return [ToolCall(call["id"] or "", call["name"], call["args"]) for call in calls]


def _is_model(message: Any) -> bool:
    return getattr(message, "type", None) in {"ai", "AIMessageChunk"}


def _text(message: Any) -> str:
    """The text of a message, content blocks of other kinds left out. A method in langchain-core 0.3, since then a
    property."""
    text = message.text
    return str(text if isinstance(text, str) else text())
