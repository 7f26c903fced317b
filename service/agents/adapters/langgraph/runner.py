"""Runs a graph for each attempt: from its input or its last checkpoint, to its end or to a question for a person."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Collection
from typing import TYPE_CHECKING, Any

from service.agents.adapters.langgraph.events import is_from_model, message_text, write_custom, write_updates
from service.agents.contract import Context, Rejected
from service.agents.http_errors import error_of_service
from service.agents.tool_events import plain

if TYPE_CHECKING:
    from service.agents.adapters.langgraph.tool_turns import Question

INTERRUPT_KEY = "__interrupt__"  # LangGraph's, in its updates
STREAM_MODES = ["messages", "custom", "updates", "values"]
NEEDS_LASTING_CHECKPOINTER = (
    "The graph asks a person (interrupt), but its checkpoints do not outlast this worker: give it a checkpointer that "
    "stores them, for example AsyncPostgresSaver."
)

ASKS_AT_ONCE = (
    "A node of the graph asks several questions at the same time (interrupt in asyncio.gather), and LangGraph cannot "
    "tell their answers apart: ask one after the other, or in nodes of their own."
)


class Runner:
    def __init__(
        self,
        graph: Any,
        input: Callable[[Context, Any], Any],
        *,
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
        """Run the graph for one attempt, and return the agent's result as JSON."""
        async with self._with_checkpointer() as graph:
            state = await self._final_state(context, message, graph)
        return plain(self._result(state))

    @contextlib.asynccontextmanager
    async def _with_checkpointer(self) -> AsyncIterator[Any]:
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

    async def _final_state(self, context: Context, message: Any, graph: Any) -> Any:
        """Run the graph from its last checkpoint, or from its input, to its end. Questions for a person are asked on
        the way."""
        from langgraph.types import Command

        from service.agents.adapters.langgraph.lost_nodes import refuse_lost_nodes
        from service.agents.adapters.langgraph.pauses import Pauses
        from service.agents.adapters.langgraph.tool_turns import ToolTurns, ask_at_once, watch_questions, watch_tools

        config = {"configurable": {"thread_id": context.message_id}}
        has_checkpoints, outlast_worker = _checkpoints(graph)
        pauses = Pauses(context, graph, context.message_id)
        questions: list[Question] | None = None
        continues = one_by_one = context.attempt > 1
        repeat = False
        while True:
            saved = await graph.aget_state(config, subgraphs=True) if has_checkpoints and continues else None
            answers: dict[str, Any] = {}
            if saved is None or saved.created_at is None:
                start = self._input(context, message)
                start = await start if inspect.isawaitable(start) else start
            else:
                await refuse_lost_nodes(graph, graph.checkpointer, saved)
                if not saved.tasks:  # the graph had ended; the attempt failed before its result was stored
                    return saved.values
                if outlast_worker and not repeat:
                    answers = await pauses.answers(saved, questions)
                context.log.info("the graph continues at %s", ", ".join(task.name for task in saved.tasks))
                start = Command(resume=answers) if answers else None
            watch_questions()
            watch_tools()
            turns = ToolTurns(one_by_one=one_by_one)
            continues = True
            try:
                with turns.in_force():
                    state, graphs = await self._stream(context, graph, start, config, has_checkpoints)
            except Exception as error:
                if not pauses.refuse(error, answers):
                    raise
                context.log.warning("the graph refuses an answer, and asks again: %s", error)
                questions = None
                continue
            if graphs is None:
                return state
            if not outlast_worker:
                raise Rejected(NEEDS_LASTING_CHECKPOINTER)
            questions = turns.questions(graphs)
            repeat = turns.may_have_mixed(questions)  # before any person is asked
            if not repeat and ask_at_once(questions):
                raise Rejected(ASKS_AT_ONCE)
            one_by_one = one_by_one or repeat

    async def _stream(
        self, context: Context, graph: Any, start: Any, config: Any, has_checkpoints: bool
    ) -> tuple[Any, dict[str, str] | None]:
        """Run the graph until it ends or is interrupted. Returns its state, and for each interrupt's id the namespace
        of the graph whose node asked, None at its end."""
        # `sync`: a super-step's checkpoint is stored before the next super-step begins.
        options = {"durability": "sync"} if has_checkpoints else {}
        state: Any = None
        written: set[str] = set()  # the tool calls and results that have an event
        interrupted = False
        graphs: dict[str, str] = {}
        stream = graph.astream(start, config, stream_mode=STREAM_MODES, subgraphs=True, **options)
        try:
            async with contextlib.aclosing(stream):
                async for namespace, mode, data in stream:
                    if mode == "values":
                        state = state if namespace else data
                    elif mode == "messages":
                        await self._emit(context, *data)
                    elif mode == "custom":
                        await write_custom(context, data)
                    elif INTERRUPT_KEY in data:
                        interrupted = interrupted or not namespace
                        # The innermost graph reports an interrupt first, then each graph around it repeats it.
                        for interrupt in data[INTERRUPT_KEY]:
                            graphs.setdefault(interrupt.id, "|".join(namespace))
                    else:
                        await write_updates(context, namespace, data, written)
        except Exception as error:
            if (translated := error_of_service(error)) is error:
                raise
            raise translated from error
        return state, graphs if interrupted else None

    async def _emit(self, context: Context, message: Any, metadata: Any) -> None:
        chosen = self._nodes is None or metadata.get("langgraph_node") in self._nodes
        if chosen and is_from_model(message) and (text := message_text(message)):
            await context.emit(text)

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


def _checkpoints(graph: Any) -> tuple[bool, bool]:
    """Whether the graph has checkpoints, and whether they outlast the worker."""
    from langgraph.checkpoint.memory import InMemorySaver

    return bool(graph.checkpointer), bool(graph.checkpointer) and not isinstance(graph.checkpointer, InMemorySaver)
