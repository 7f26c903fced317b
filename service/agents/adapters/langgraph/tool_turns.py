"""The order of a ToolNode's tools, where they ask a person. Imported only when a graph runs.

A ToolNode runs the tool calls of a message at the same time, as one task, and LangGraph hands the answers of a task out
in the order in which interrupt() is called. So a yes could approve another call than the one that asked. Where a tool
has asked, the calls of its ToolNode run one after the other, in the order of the message, from then on. A node of the
author's own that asks several questions at the same time is refused, for its order is unknown.
"""

import asyncio
import contextlib
import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextvars import ContextVar
from typing import Any

from langgraph.errors import GraphBubbleUp
from langgraph.types import Interrupt

_turns: ContextVar["ToolTurns | None"] = ContextVar("tool_turns", default=None)


class ToolTurns:
    """The tool calls of one run of a graph."""

    def __init__(self, *, one_by_one: bool) -> None:
        self._one_by_one = one_by_one
        self._calls: Counter[str] = Counter()  # by the namespace of the task
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asking: set[str] = set()
        self._questions: Counter[str] = Counter()  # that have no answer yet, by the namespace of the task

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        token = _turns.set(self)
        try:
            yield
        finally:
            _turns.reset(token)

    def may_have_mixed(self, interrupt_ids: Collection[str]) -> bool:
        """Whether one of these interrupts ended a task that ran several calls at the same time."""
        several = [namespace for namespace, calls in self._calls.items() if calls > 1]
        return not self._one_by_one and any(Interrupt.from_ns(None, ns).id in interrupt_ids for ns in several)

    def asks_at_once(self, interrupt_ids: Collection[str]) -> bool:
        """Whether one of these interrupts ended a task that asked several questions at the same time."""
        several = [namespace for namespace, questions in self._questions.items() if questions > 1]
        return any(Interrupt.from_ns(None, namespace).id in interrupt_ids for namespace in several)

    def note_question(self, namespace: str) -> None:
        self._questions[namespace] += 1

    async def run(self, namespace: str, run_call: Callable[[], Awaitable[Any]]) -> Any:
        """Run a call of the task with this namespace, now or in its turn."""
        self._calls[namespace] += 1
        if not self._one_by_one:
            return await run_call()
        async with self._locks[namespace]:  # a lock is given in the order in which it was asked for
            if namespace in self._asking:
                raise asyncio.CancelledError  # a call before this one asks: this one runs with the answer
            try:
                return await run_call()
            except GraphBubbleUp:
                self._asking.add(namespace)
                raise


def watch_questions() -> None:
    """Let each run know the questions of its tasks. LangGraph has no hook for them; it makes an Interrupt of each."""
    make = Interrupt.from_ns.__func__  # type: ignore[attr-defined]
    if hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def from_ns(cls: type[Interrupt], value: Any, ns: str) -> Interrupt:
        if (turns := _turns.get()) is not None:
            turns.note_question(ns)
        made: Interrupt = make(cls, value, ns)
        return made

    Interrupt.from_ns = classmethod(from_ns)  # type: ignore[assignment,method-assign]


def watch_tools() -> None:
    """Let the calls of every ToolNode keep to the turns of their run. LangGraph has no hook for it."""
    # A graph with a ToolNode has imported its module. We do not: it warns of names that it has moved.
    module = sys.modules.get("langgraph.prebuilt.tool_node")
    run_one = getattr(getattr(module, "ToolNode", None), "_arun_one", None)
    if run_one is None or hasattr(run_one, "__wrapped__"):
        return

    @functools.wraps(run_one)
    async def in_turn(self: Any, call: Any, input_type: Any, config: Any) -> Any:
        turns = _turns.get()
        if turns is None:
            return await run_one(self, call, input_type, config)
        namespace = config["configurable"].get("checkpoint_ns", "")
        return await turns.run(namespace, lambda: run_one(self, call, input_type, config))

    module.ToolNode._arun_one = in_turn  # type: ignore[union-attr]
