"""The questions that a LangGraph graph asks a person, and their answers. Imported only when a graph runs.

The graph's checkpoints record where it stopped, but not which questions were asked through Treadle. So each question
has a name that follows from the checkpoints alone, and is the same in each attempt:

    interrupt <id>     interrupt(): LangGraph's id of the task's first one; a further question of the task adds a number
    breakpoint <id>    interrupt_before, interrupt_after: the id of the checkpoint at which the graph stopped

If the graph refuses an answer (`response_schema`), it asks again, and the question's name ends with `again <number>`.

The checkpoints also record how many answers a task has used. They keep this record if the task fails afterwards.
"""

from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any

from langgraph import errors
from langgraph.checkpoint.serde.types import INTERRUPT, RESUME
from langgraph.types import Interrupt, StateSnapshot

from service.agents.adapters.langgraph.tool_turns import Question
from service.agents.contract import Context, Rejected
from service.agents.tool_events import plain

INNER_GRAPH_CANNOT_CONTINUE = (
    "The graph stopped in an inner graph that a node creates while it runs, and such a graph cannot continue: add the "
    "inner graph to the outer one as a node."
)


class Pauses:
    """The questions of one attempt; each is asked once."""

    def __init__(self, context: Context, graph: Any, thread_id: str) -> None:
        self._context = context
        self._graph = graph
        self._thread_id = thread_id
        self._answers: dict[str, Any] = {}  # by the question's name
        self._refused: Counter[str] = Counter()  # answers, by the name of the task's question
        self._asked: dict[str, tuple[str, str]] = {}  # the task's id and the question's name, by the interrupt's id

    async def answers(self, saved: StateSnapshot, questions: Sequence[Question] | None) -> dict[str, Any]:
        """Ask every question that the graph waits for, and return the answers by the interrupt's id.

        `questions` ended the last run of this attempt; None at the start of an attempt. In that case the questions
        come from the checkpoints, but only those of tasks that have used no answer yet: the others run again first,
        and ask by themselves if they need a further answer.
        """
        answered_before = len(self._answers)
        async for checkpoint_id, nodes in self._breakpoints(self._graph, saved, ""):
            await self._ask(f"breakpoint {checkpoint_id}", nodes)
        found = await self._from_checkpoints(saved) if questions is None else await self._counted(questions)
        answers: dict[str, Any] = {}
        open_ids = {question.interrupt.id for question, _ in found}
        for (interrupt, task, _), used in found:
            name = f"interrupt {_first_id(task)} {used + 1}" if used else f"interrupt {_first_id(task)}"
            self._asked[interrupt.id] = (_task_id(task), name)
            if interrupt.id in answers:
                continue
            answer = await self._ask(name, plain(interrupt.value))
            if _names_interrupts(answer, interrupt.id):
                answers |= {id: given for id, given in answer.items() if id in open_ids}
            else:
                answers[interrupt.id] = answer
        if questions is not None and len(self._answers) == answered_before:
            raise Rejected(INNER_GRAPH_CANNOT_CONTINUE)
        return answers

    def refuse(self, error: Exception, interrupt_ids: Collection[str]) -> bool:
        """Whether the graph failed because it refuses the answer to one of these interrupts; its question is then asked
        again."""
        is_refusal = getattr(errors, "is_invalid_resume", None)  # since LangGraph 1.2
        if is_refusal is None or not is_refusal(error):
            return False
        notes = "\n".join(getattr(error, "__notes__", ()))  # LangGraph notes the tasks that failed
        refused = [name for task_id, name in map(self._asked.__getitem__, interrupt_ids) if task_id in notes]
        self._refused.update(refused)
        return bool(refused)

    async def _ask(self, name: str, question: Any) -> Any:
        if count := self._refused[name]:
            name = f"{name} again {count}"
        if name not in self._answers:
            self._answers[name] = await self._context.input(question, name=name)
        return self._answers[name]

    async def _from_checkpoints(self, saved: StateSnapshot) -> list[tuple[Question, int]]:
        """The questions of tasks that have used no answer yet."""
        found = []
        graph = str(saved.config["configurable"].get("checkpoint_ns", ""))
        for task in saved.tasks:
            if isinstance(task.state, StateSnapshot):
                found += await self._from_checkpoints(task.state)
            elif task.interrupts and not _used_answers(await self._writes(graph), task.id):
                asking = "|".join(filter(None, (graph, f"{task.name}:{task.id}")))
                # If a node creates a graph while it runs, the outer task has the interrupts of inner ones.
                own = [interrupt for interrupt in task.interrupts if interrupt.id == _first_id(asking)]
                found += [(Question(interrupt, asking, graph), 0) for interrupt in own]
        return found

    async def _counted(self, questions: Sequence[Question]) -> list[tuple[Question, int]]:
        """The questions of a run that just ended, each with the number of answers that its task has used."""
        found = []
        for question in questions:
            used = _used_answers(await self._writes(question.graph), _task_id(question.task))
            if used is None:
                raise Rejected(INNER_GRAPH_CANNOT_CONTINUE)
            found.append((question, used))
        return found

    async def _breakpoints(
        self, graph: Any, saved: StateSnapshot, path: str
    ) -> AsyncIterator[tuple[str, dict[str, list[str]]]]:
        """The checkpoints at which this graph, or a graph inside it, must stop, whether it has stopped there or not: a
        worker may die before the stop, and a run that starts at a checkpoint does not stop there."""
        stops = {"before": _next_nodes_among(graph.interrupt_before_nodes, saved)}
        if graph.interrupt_after_nodes and saved.parent_config:
            parent = await self._graph.aget_state(saved.parent_config)
            stops["after"] = _next_nodes_among(graph.interrupt_after_nodes, parent)
        if any(stops.values()):
            yield (
                saved.config["configurable"]["checkpoint_id"],
                {when: [path + node for node in nodes] for when, nodes in stops.items() if nodes},
            )
        inner = {name: subgraph async for name, subgraph in graph.aget_subgraphs()}
        for task in saved.tasks:
            if isinstance(task.state, StateSnapshot) and task.state.created_at:
                async for found in self._breakpoints(inner[task.name], task.state, f"{path}{task.name}/"):
                    yield found

    async def _writes(self, namespace: str) -> Sequence[tuple[str, str, Any]]:
        """What the tasks of a graph's last checkpoint have written: task, channel, value."""
        config = {"configurable": {"thread_id": self._thread_id, "checkpoint_ns": namespace}}
        saved = await self._graph.checkpointer.aget_tuple(config)
        return (saved and saved.pending_writes) or []


def _names_interrupts(answer: Any, asked: str) -> bool:
    """Whether it has answers to several interrupts, by their ids."""
    return isinstance(answer, dict) and asked in answer and all(len(key) == len(asked) for key in answer)


def _first_id(task: str) -> str:
    """The id of the first interrupt of the task with this namespace."""
    return Interrupt.from_ns(None, task).id


def _task_id(task: str) -> str:
    """The id of the task with this namespace."""
    return task.rpartition(":")[2]


def _used_answers(writes: Iterable[tuple[str, str, Any]], task_id: str) -> int | None:
    """How many answers the task has used; None if it never asked."""
    written = {channel: value for task, channel, value in writes if task == task_id}
    return len(written.get(RESUME, ())) if INTERRUPT in written else None


def _next_nodes_among(chosen: Any, saved: StateSnapshot) -> list[str]:
    """The next nodes that are among the chosen; `*` chooses all."""
    names = [task.name for task in saved.tasks if not task.name.startswith("__")]
    return sorted({name for name in names if chosen == "*" or name in chosen})
