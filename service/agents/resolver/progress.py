"""The progress of a query, for the clarifier: from the log of the message under way, or from the thread's memory."""

from typing import Any, Literal, TypeAlias

import msgspec

from service.agents.contract import UnderWay
from service.agents.resolver.memory import Memory, cut
from service.agents.resolver.plan import Task
from service.agents.resolver.step_results import PLAN_STEP, PlanResult, TextResult, task_step

MAX_OTHER_WORK_CHARS = 20_000

# `over`: the answer was given; `other`: an agent that is not a resolver is at work.
Stage: TypeAlias = Literal["plan", "task", "answer", "over", "other"]


class Progress(msgspec.Struct, frozen=True):
    """`finished` are the results by the task's id, `running` the ids of the tasks that run. `answer` is the previous
    answer of the thread. `other_work` is the JSON of another agent's steps and progress."""

    stage: Stage
    query: str
    tasks: tuple[Task, ...] = ()
    finished: dict[str, str] = {}
    running: tuple[str, ...] = ()
    answer: str = ""
    other_work: str = ""

    @property
    def waiting(self) -> list[Task]:
        return [task for task in self.tasks if task.id not in self.finished and task.id not in self.running]

    def described(self) -> str:
        """The progress in words, for the model."""
        if self.stage == "over":
            return "Nothing is under way; the answer was given."
        if self.stage == "other":
            return "An agent is at work."
        if not self.tasks:
            return "The plan is being made."
        lines = [f"- {task.title}: {self._state(task)}" for task in self.tasks]
        if self.stage == "answer":
            lines.append("- The answer is being written.")
        return "\n".join(lines)

    def _state(self, task: Task) -> str:
        if task.id in self.finished:
            return "finished"
        return "running" if task.id in self.running else "waiting"


def progress_of(work: UnderWay, memory: Memory | None) -> Progress:
    """The progress of the message under way in the thread."""
    query = work.message if isinstance(work.message, str) else msgspec.json.encode(work.message).decode()
    plan = _converted(work.steps.get(PLAN_STEP), PlanResult)
    if plan is None and not _is_resolver(work):
        other = {"agent": work.agent, "steps": work.steps, "progress": work.progress}
        return Progress("other", query, other_work=cut(msgspec.json.encode(other).decode(), MAX_OTHER_WORK_CHARS))
    if plan is None:
        whole = _with_refinements(memory.query, (*memory.refinements, query)) if memory else query
        return Progress("plan", whole, answer=memory.answer if memory else "")
    finished = plan.kept_results(memory)
    for task in plan.tasks:
        if (result := _converted(work.steps.get(task_step(task.id)), TextResult)) is not None:
            finished[task.id] = result.text
    stage, running = _stage(work, finished)
    return Progress(stage, _with_refinements(plan.query, plan.refinements), plan.tasks, finished, running)


def progress_in_memory(memory: Memory) -> Progress:
    """The progress of the last query, which is over."""
    query = _with_refinements(memory.query, memory.refinements)
    return Progress("over", query, memory.tasks, memory.results, answer=memory.answer)


def _stage(work: UnderWay, finished: dict[str, str]) -> tuple[Stage, tuple[str, ...]]:
    """The stage of the last attempt, and the tasks that run in it, from its `progress` events."""
    running: dict[str, None] = {}
    stage: Stage = "task"
    for data in work.progress:
        match data:
            case {"stage": "task", "state": "started", "task": str(name)} if name not in finished:
                running[name] = None
            case {"stage": "task", "state": "failed", "task": str(name)}:
                running.pop(name, None)
            case {"stage": "plan"}:  # a new attempt begins
                running, stage = {}, "task"
            case {"stage": "answer"}:
                stage = "answer"
    return stage, tuple(running)


def _with_refinements(query: str, refinements: tuple[str, ...]) -> str:
    return "\n".join((query, *(f"Then: {text}" for text in refinements)))


def _is_resolver(work: UnderWay) -> bool:
    return any(isinstance(data, dict) and data.get("stage") == "plan" for data in work.progress)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None
