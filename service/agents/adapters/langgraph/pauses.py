"""Where a LangGraph graph waits for a person, and what it is answered. Imported when a graph has stopped or goes on.

Its checkpoints say where it stopped, not what was told to the person who is asked. So each question has a name that
follows from the checkpoints alone, the same in each attempt:

    interrupt <id>        interrupt(): LangGraph's id, of the task that asks; a task that asks again adds a number
    breakpoint <id>       interrupt_before, interrupt_after: the id of the checkpoint that is stopped at

How many answers a task was given already is in the checkpoints, once it used them: they stay there if it fails then.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from langgraph.checkpoint.serde.types import INTERRUPT, RESUME
from langgraph.types import Interrupt, StateSnapshot

from service.agents.contract import Context, Rejected
from service.agents.tool_events import plain

STUCK = (
    "The graph has stopped in a graph within it where it cannot be gone on with: that one is made while a node runs."
)

# What a run stopped with: the interrupts by id, each with the namespace of the graph whose node asked.
Stop = Mapping[str, tuple[Interrupt, str]]


class Pauses:
    """The questions of one attempt, none of them asked twice."""

    def __init__(self, context: Context, graph: Any, thread_id: str) -> None:
        self._context = context
        self._graph = graph
        self._thread_id = thread_id
        self._answers: dict[str, Any] = {}  # by the question's name

    async def answers(self, kept: StateSnapshot, stop: Stop | None) -> dict[str, Any]:
        """Ask what the graph waits for; returns the answers for its interrupts by id. `stop` is what this attempt's
        last run ended with, None at the attempt's start.

        Where a graph stopped before this attempt, what it waits for is in its checkpoints, but for a task that was
        given answers before: that one is run again, and says itself whether it wants another.
        """
        before = len(self._answers)
        async for checkpoint_id, nodes in self._breakpoints(self._graph, kept, ""):
            await self._ask(f"breakpoint {checkpoint_id}", nodes)
        found = await self._stored(kept) if stop is None else await self._told(stop)
        answers = {}
        for interrupt, given in found:
            name = f"interrupt {interrupt.id} {given + 1}" if given else f"interrupt {interrupt.id}"
            answers[interrupt.id] = await self._ask(name, plain(interrupt.value))
        if stop is not None and len(self._answers) == before:
            raise Rejected(STUCK)
        return answers

    async def _ask(self, name: str, question: Any) -> Any:
        if name not in self._answers:
            self._answers[name] = await self._context.input(question, name=name)
        return self._answers[name]

    async def _stored(self, kept: StateSnapshot) -> list[tuple[Interrupt, int]]:
        """The interrupts that surely wait: their tasks were given no answer yet."""
        found = []
        for task in kept.tasks:
            if isinstance(task.state, StateSnapshot):
                found += await self._stored(task.state)
            elif task.interrupts:
                writes = await self._writes(_namespace(kept))
                # Of a graph that is made while a node runs only the outer task is known here.
                own = Interrupt.from_ns(None, "|".join(filter(None, (_namespace(kept), f"{task.name}:{task.id}")))).id
                if _given(writes, own) == 0:
                    found += [(one, 0) for one in task.interrupts]
        return found

    async def _told(self, stop: Stop) -> list[tuple[Interrupt, int]]:
        """The interrupts of a run that just stopped, and how many answers their tasks were given before."""
        found = []
        for interrupt, namespace in stop.values():
            given = _given(await self._writes(namespace), interrupt.id)
            if given is None:
                raise Rejected(STUCK)
            found.append((interrupt, given))
        return found

    async def _breakpoints(
        self, graph: Any, kept: StateSnapshot, path: str
    ) -> AsyncIterator[tuple[str, dict[str, list[str]]]]:
        """The checkpoints at which a graph, or one within it, is to stop, whether it has or not: a worker may die in
        between, and who goes on from a checkpoint is not stopped there."""
        stops = {"before": _among(graph.interrupt_before_nodes, kept)}
        if graph.interrupt_after_nodes and kept.parent_config:
            stops["after"] = _among(graph.interrupt_after_nodes, await self._graph.aget_state(kept.parent_config))
        if any(stops.values()):
            yield (
                kept.config["configurable"]["checkpoint_id"],
                {when: [path + node for node in nodes] for when, nodes in stops.items() if nodes},
            )
        inner = {name: found async for name, found in graph.aget_subgraphs()}
        for task in kept.tasks:
            if isinstance(task.state, StateSnapshot) and task.state.created_at:
                async for found in self._breakpoints(inner[task.name], task.state, f"{path}{task.name}/"):
                    yield found

    async def _writes(self, namespace: str) -> Sequence[tuple[str, str, Any]]:
        """What the tasks of a graph's last checkpoint have written: task, channel, value."""
        config = {"configurable": {"thread_id": self._thread_id, "checkpoint_ns": namespace}}
        saved = await self._graph.checkpointer.aget_tuple(config)
        return (saved and saved.pending_writes) or []


def _namespace(kept: StateSnapshot) -> str:
    return str(kept.config["configurable"].get("checkpoint_ns", ""))


def _given(writes: Iterable[tuple[str, str, Any]], interrupt_id: str) -> int | None:
    """How many answers the task that asks this was given; None where no task does."""
    asking = {
        task for task, channel, value in writes if channel == INTERRUPT and any(one.id == interrupt_id for one in value)
    }
    answers = [len(value) for task, channel, value in writes if channel == RESUME and task in asking]
    return max(answers, default=0) if asking else None


def _among(chosen: Any, kept: StateSnapshot) -> list[str]:
    """The nodes, of those that are next, that are among the chosen; `*` are all."""
    names = [task.name for task in kept.tasks if not task.name.startswith("__")]
    return sorted({name for name in names if chosen == "*" or name in chosen})
