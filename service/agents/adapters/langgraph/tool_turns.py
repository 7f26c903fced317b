"""The order of a ToolNode's tools, where they ask a person. Imported only when a graph runs.

A ToolNode runs the tool calls of a message at the same time, as one task, and LangGraph hands the answers of a task out
in the order in which interrupt() is called. So a yes could approve another call than the one that asked. Where a tool
has asked, the calls of its ToolNode run one after the other, in the order of the message, from then on. A node of the
author's own that asks several questions at the same time is refused, for its order is unknown.

LangGraph numbers the graphs that the tools run in the order in which they start, and finds their checkpoints, questions
and answers by this number. So each call has numbers of its own.
"""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.types import Interrupt

SCRATCHPAD = "__pregel_scratchpad"  # LangGraph's key for what a task counts
MAX_CALLS = 1000  # of a task: the step between the numbers of a call's graphs

_turns: ContextVar["ToolTurns | None"] = ContextVar("tool_turns", default=None)


class Question(NamedTuple):
    """A call of interrupt() that found no answer."""

    interrupt: Interrupt
    task: str  # the namespace of the task that asks
    graph: str  # the namespace of its graph


class ToolTurns:
    """The tool calls and the questions of one run of a graph."""

    def __init__(self, *, one_by_one: bool) -> None:
        self._one_by_one = one_by_one
        self._calls: Counter[str] = Counter()  # by the namespace of the task
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asking: set[str] = set()
        self._asked: dict[int, tuple[Interrupt, str]] = {}  # with the task, by the identity of the interrupt

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        token = _turns.set(self)
        try:
            yield
        finally:
            _turns.reset(token)

    def note_questions(self, interrupts: Sequence[Interrupt]) -> None:
        """Note what the current task asks. An outer graph repeats the interrupts of an inner one."""
        for interrupt in interrupts:
            if id(interrupt) not in self._asked:
                self._asked[id(interrupt)] = (interrupt, _current_task())

    def questions(self, graphs: Mapping[str, str]) -> list[Question]:
        """The questions by whose interrupts the run ended; `graphs` has the namespace of the graph by interrupt id."""
        asked = self._asked.values()
        return [Question(interrupt, task, graphs[interrupt.id]) for interrupt, task in asked if interrupt.id in graphs]

    def may_have_mixed(self, questions: Collection[Question]) -> bool:
        """Whether one of these questions ended a task that ran several calls at the same time."""
        return not self._one_by_one and any(self._calls[question.task] > 1 for question in questions)

    async def run(self, config: dict[str, Any], run_call: Callable[[], Awaitable[Any]]) -> Any:
        """Run a call of the current task, which has this config, now or in its turn."""
        task = _current_task()
        self._calls[task] += 1
        scratchpad = config["configurable"][SCRATCHPAD]
        graph_numbers = itertools.count(scratchpad.subgraph_counter(), MAX_CALLS)
        config["configurable"][SCRATCHPAD] = dataclasses.replace(
            scratchpad, subgraph_counter=functools.partial(next, graph_numbers)
        )
        if not self._one_by_one:
            return await run_call()
        async with self._locks[task]:  # a lock is given in the order in which it was asked for
            if task in self._asking:
                raise asyncio.CancelledError  # a call before this one asks: this one runs with the answer
            try:
                return await run_call()
            except GraphBubbleUp:
                self._asking.add(task)
                raise


def ask_at_once(questions: Collection[Question]) -> bool:
    """Whether a task asks several of these questions at the same time."""
    return len({question.task for question in questions}) < len(questions)


def watch_questions() -> None:
    """Let each run know the questions of its tasks. LangGraph has no hook for them; each becomes a GraphInterrupt."""
    make = GraphInterrupt.__init__
    if hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def noted(self: GraphInterrupt, interrupts: Sequence[Interrupt] = ()) -> None:
        if (turns := _turns.get()) is not None:
            turns.note_questions(interrupts)
        make(self, interrupts)

    GraphInterrupt.__init__ = noted  # type: ignore[method-assign]  # LangGraph has no hook for it


def watch_tools() -> None:
    """Let the calls of every ToolNode keep to the turns of their run. LangGraph has no hook for it."""
    # A graph with a ToolNode has imported its module. We do not: it warns of names that it has moved.
    module = sys.modules.get("langgraph.prebuilt.tool_node")
    run_one = getattr(getattr(module, "ToolNode", None), "_arun_one", None)
    if run_one is None or hasattr(run_one, "__wrapped__"):
        return

    @functools.wraps(run_one)
    async def in_turn(self: Any, call: Any, input_type: Any, runtime: Any) -> Any:
        run_call = functools.partial(run_one, self, call, input_type, runtime)
        if (turns := _turns.get()) is None:
            return await run_call()
        return await turns.run(getattr(runtime, "config", runtime), run_call)  # LangGraph 1.0 passes the config itself

    module.ToolNode._arun_one = in_turn  # type: ignore[union-attr]  # no None: it has the method


def _current_task() -> str:
    """The namespace of the task that runs."""
    return str(get_config()["configurable"].get("checkpoint_ns", ""))
