"""Where a query stands, for whoever is asked about it: of the message under way, or of the thread's memory."""

from typing import Any

import msgspec

from service.agents.contract import UnderWay
from service.agents.resolver.memory import Memory, cut
from service.agents.resolver.plan import Task
from service.agents.resolver.step_results import PLAN, Planned, Said, of_task

OTHER = 20_000  # characters of what another agent left


class Picture(msgspec.Struct, frozen=True):
    """`stage` is plan, task or answer while the team is at work, over afterwards, and other for an agent that is not of
    this kind: then `other` is what it left, as JSON."""

    stage: str
    query: str
    tasks: tuple[Task, ...] = ()
    finished: dict[str, str] = {}
    running: tuple[str, ...] = ()
    answer: str = ""
    other: str = ""

    @property
    def waiting(self) -> list[Task]:
        return [task for task in self.tasks if task.id not in self.finished and task.id not in self.running]

    def told(self) -> str:
        """In words."""
        if self.stage == "over":
            return "Nothing is under way; the answer was given."
        if self.stage == "other":
            return "An agent is at work."
        if not self.tasks:
            return "The plan is being made."
        lines = [
            f"- {task.title}: {'finished' if task.id in self.finished else self._state(task)}" for task in self.tasks
        ]
        if self.stage == "answer":
            lines.append("- The answer is being written.")
        return "\n".join(lines)

    def _state(self, task: Task) -> str:
        return "running" if task.id in self.running else "waiting"


def of_work(under: UnderWay, memory: Memory | None) -> Picture:
    query = under.message if isinstance(under.message, str) else msgspec.json.encode(under.message).decode()
    planned = _converted(under.steps.get(PLAN), Planned)
    if planned is None and not _is_ours(under):
        left = {"agent": under.agent, "steps": under.steps, "progress": under.progress}
        return Picture("other", query, other=cut(msgspec.json.encode(left).decode(), OTHER))
    if planned is None:
        asked = _asked(memory.query, (*memory.refinements, query)) if memory else query
        return Picture("plan", asked, answer=memory.answer if memory else "")
    finished = planned.results_of(memory)
    for task in planned.tasks:
        if (said := _converted(under.steps.get(of_task(task.id)), Said)) is not None:
            finished[task.id] = said.text
    running: dict[str, None] = {}
    stage = "task"
    for data in under.progress:
        match data:
            case {"stage": "task", "state": "started", "task": str(name)} if name not in finished:
                running[name] = None
            case {"stage": "task", "state": "failed", "task": str(name)}:
                running.pop(name, None)
            case {"stage": "plan"}:  # another attempt begins
                running, stage = {}, "task"
            case {"stage": "answer"}:
                stage = "answer"
    return Picture(stage, _asked(planned.query, planned.refinements), planned.tasks, finished, tuple(running))


def of_memory(memory: Memory) -> Picture:
    asked = _asked(memory.query, memory.refinements)
    return Picture("over", asked, memory.tasks, memory.results, answer=memory.answer)


def _asked(query: str, refinements: tuple[str, ...]) -> str:
    return "\n".join((query, *(f"Then: {text}" for text in refinements)))


def _is_ours(under: UnderWay) -> bool:
    return any(isinstance(data, dict) and data.get("stage") == "plan" for data in under.progress)


def _converted(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None
