"""One run of a graph: from its input or its last checkpoint, to its end or to a question for a person."""

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from service.agents.adapters.langgraph.asked import SEED, Asked
from service.agents.adapters.langgraph.events import is_from_model, message_text, write_custom, write_updates
from service.agents.adapters.langgraph.graph_events import INTERRUPT_KEY, GraphEvents
from service.agents.adapters.langgraph.inputs import refuse_orders_in, refuse_unreadable
from service.agents.contract import Context, Rejected

if TYPE_CHECKING:
    from service.agents.adapters.langgraph.thread_state import ThreadState
    from service.agents.adapters.langgraph.tool_turns import Question

STREAM_MODES = ["messages", "custom", "updates", "values"]
NEEDS_LASTING_CHECKPOINTER = (
    "The graph asks a person (interrupt), but its checkpoints do not outlast this worker: give it a checkpointer that "
    "stores them, for example AsyncPostgresSaver."
)

NO_STATE = "The thread has no state from which the graph could go on: send an input."
ASKS_AT_ONCE = (
    "A node of the graph asks several questions at the same time (interrupt in asyncio.gather), and LangGraph cannot "
    "tell their answers apart: ask one after the other, or in nodes of their own."
)


class Agent(Protocol):
    """What an attempt asks its agent."""

    async def start(self, context: Context, message: Any, asked: Asked | None, *, has_state: bool) -> Any:
        """What the graph begins with."""

    def streams(self, metadata: Any) -> bool:
        """Whether the tokens of the node are the answer."""


class Attempt:
    """One run of the graph, with the questions for a person on the way."""

    def __init__(
        self,
        agent: Agent,
        context: Context,
        message: Any,
        graph: Any,
        asked: Asked | None = None,
        state: "ThreadState | None" = None,
    ) -> None:
        self._agent = agent
        self._context = context
        self._message = message
        self._graph = graph
        self._asked = asked
        self._state = state
        self._events = GraphEvents(context, asked)
        given: dict[str, Any] = asked.options if asked is not None else {"configurable": {}}
        place = {**given["configurable"], "thread_id": context.message_id}
        self._config = {**given, "configurable": place}
        own_limit = (getattr(graph, "config", None) or {}).get("recursion_limit")
        if own_limit is not None and given.get("recursion_limit", 0) > own_limit:  # each step may cost money
            self._config["recursion_limit"] = own_limit

    async def run(self, *, has_checkpoints: bool, outlast_worker: bool) -> Any:
        """Run the graph from its last checkpoint, or from its input, to its end."""
        from langgraph.types import Command

        from service.agents.adapters.langgraph.lost_nodes import refuse_lost_nodes
        from service.agents.adapters.langgraph.pauses import Pauses
        from service.agents.adapters.langgraph.tool_turns import ToolTurns, ask_at_once, watch_questions, watch_tools

        context, graph = self._context, self._graph
        pauses = Pauses(context, graph, context.message_id)
        questions: list[Question] | None = None
        continues = one_by_one = context.attempt > 1
        repeat = began = False
        while True:
            saved = await graph.aget_state(self._config, subgraphs=True) if has_checkpoints and continues else None
            answers: dict[str, Any] = {}
            if saved is None or saved.created_at is None or (SEED in (saved.metadata or {}) and not began):
                ended, start = await self._begin()
                if ended:
                    return start
            elif self._asked is not None and self._asked.update is not None:  # an earlier attempt has made the change
                return await self._end_update(saved)
            else:
                await refuse_lost_nodes(graph, graph.checkpointer, saved)
                if not saved.tasks:  # the graph had ended; the attempt failed before its result was stored
                    await self._events.last_values(saved.values)
                    return saved.values
                if outlast_worker and not repeat:
                    await self._before_questions(saved, questions)
                    answers = await pauses.answers(saved, questions)
                context.log.info("the graph continues at %s", ", ".join(task.name for task in saved.tasks))
                start = Command(resume=answers) if answers else None
            watch_questions()
            watch_tools()
            turns = ToolTurns(one_by_one=one_by_one)
            continues = began = True
            try:
                with turns.in_force(), _within_limit():
                    state, graphs = await self._stream(start, has_checkpoints)
            except Exception as error:
                if not pauses.refuse(error, answers):
                    raise
                context.log.warning("the graph refuses an answer, and asks again: %s", error)
                questions = None
                continue
            if graphs is None:
                await self._events.last_values(state)
                return state
            if not outlast_worker:
                raise Rejected(NEEDS_LASTING_CHECKPOINTER)
            questions = turns.questions(graphs)
            repeat = turns.may_have_mixed(questions)  # before any person is asked
            if not repeat and ask_at_once(questions):
                raise Rejected(ASKS_AT_ONCE)
            one_by_one = one_by_one or repeat

    async def _begin(self) -> tuple[bool, Any]:
        """What the graph begins with; or True and its state, if nothing is to run. Raises Rejected."""
        asked, has_state = self._asked, self._state is not None and self._state.has_state
        if asked is not None and asked.update is not None:
            return True, await self._update(asked.update)
        if asked is not None and asked.resumes:
            if not has_state:
                raise Rejected(NO_STATE)
            state = await self._graph.aget_state(self._config)
            if state.next:
                return False, None
            await self._events.last_values(state.values)
            return True, state.values
        start = None if asked is None else asked.start(self._graph)
        if start is None:
            start = await self._agent.start(self._context, self._message, asked, has_state=has_state)
        refuse_unreadable(self._graph, start)
        return False, start

    async def _before_questions(self, saved: Any, questions: "list[Question] | None") -> None:
        asked = (
            [interrupt for task in saved.tasks for interrupt in task.interrupts]
            if questions is None
            else [question.interrupt for question in questions]
        )
        if questions is not None or asked:
            await self._events.asks(saved, asked)
        if questions is not None and self._state is not None:
            await self._state.keep()

    async def _update(self, update: dict[str, Any]) -> Any:
        """Change the state of the thread, as if a node had written it. Raises Rejected."""
        from langgraph.errors import InvalidUpdateError

        values = update.get("values")
        for part in values if isinstance(values, list) else [values]:
            refuse_orders_in(part)
            refuse_unreadable(self._graph, part)
        try:
            config = await self._graph.aupdate_state(self._config, values, as_node=update.get("as_node"))
        except InvalidUpdateError as error:
            raise Rejected(str(error)) from error
        return await self._end_update(await self._graph.aget_state(config))

    async def _end_update(self, state: Any) -> Any:
        await self._events.last_values(state.values, following=[task.name for task in state.tasks])
        return state.values

    async def _stream(self, start: Any, has_checkpoints: bool) -> tuple[Any, dict[str, str] | None]:
        """Run the graph until it ends or is interrupted. Returns its state, and for each interrupt's id the namespace
        of the graph whose node asked, None at its end."""
        from service.agents.adapters.langgraph.whole_answers import WholeAnswers

        # `sync`: a super-step's checkpoint is stored before the next super-step begins.
        options: dict[str, Any] = {"durability": "sync"} if has_checkpoints else {}
        if self._asked is not None and self._asked.context is not None:
            options["context"] = self._asked.context_of(self._graph)
        modes = [*STREAM_MODES, *(self._asked.modes if self._asked is not None else ())]
        state: Any = None
        written: set[str] = set()  # the tool calls and results that have an event
        interrupted = False
        graphs: dict[str, str] = {}
        graph = self._graph.with_config(callbacks=[WholeAnswers()])  # beside the graph's own
        stream = graph.astream(start, self._config, stream_mode=modes, subgraphs=True, **options)
        stream = _refusing_input(stream, self._graph, start)
        async with contextlib.aclosing(stream):
            async for namespace, mode, data in stream:
                if mode == "values":
                    state = state if namespace else data
                    await self._events.values(data, namespace)
                elif mode == "messages":
                    await self._emit(*data)
                elif mode == "custom":
                    await write_custom(self._context, data)
                elif mode != "updates":
                    await self._events.passed_on(mode, data, namespace)
                elif INTERRUPT_KEY in data:
                    interrupted = interrupted or not namespace
                    # The innermost graph reports an interrupt first, then each graph around it repeats it.
                    for interrupt in data[INTERRUPT_KEY]:
                        graphs.setdefault(interrupt.id, "|".join(namespace))
                else:
                    await write_updates(self._context, namespace, data, written)
        return state, graphs if interrupted else None

    async def _emit(self, message: Any, metadata: Any) -> None:
        from_model = is_from_model(message)
        if from_model and not self._agent.streams(metadata):
            return
        text = message_text(message) if from_model else ""
        await self._events.message(message, metadata, has_text=bool(text))
        if text:
            await self._context.emit(text)


async def _refusing_input(stream: AsyncGenerator[Any], graph: Any, start: Any) -> AsyncGenerator[Any]:
    """The items of a run; the first one is the state with the input, before any node begins. Raises Rejected if
    Pydantic refuses the input for the graph's state: another attempt would find the same."""
    builder = getattr(graph, "builder", None)
    names = {getattr(getattr(builder, kind, None), "__name__", None) for kind in ("state_schema", "input_schema")}
    is_input = isinstance(start, dict)
    try:
        async with contextlib.aclosing(stream):
            async for item in stream:
                is_input = False
                yield item
    except ValueError as error:
        if is_input and hasattr(error, "title") and error.title in names:  # of Pydantic's ValidationError
            raise Rejected(f"The input does not fit the graph's state: {error}") from error
        raise


@contextlib.contextmanager
def _within_limit() -> Iterator[None]:
    """Raises Rejected where the graph reaches its recursion_limit: another attempt would pay for the same steps."""
    from langgraph.errors import GraphRecursionError

    try:
        yield
    except GraphRecursionError as error:
        raise Rejected(str(error)) from error
