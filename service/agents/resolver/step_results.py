"""The results of a message's steps, as they are stored in its log: `plan`, `task <id>` and `answer`."""

import msgspec

from service.agents.resolver.memory import Memory
from service.agents.resolver.plan import Task

PLAN_STEP, ANSWER_STEP = "plan", "answer"


def task_step(task_id: str) -> str:
    return f"task {task_id}"


class TextResult(msgspec.Struct, frozen=True):
    """The result of a task or of the answer: the model's text."""

    text: str


class PlanResult(msgspec.Struct, frozen=True):
    """The plan of a message.

    If the message refines an earlier answer, `refinements` ends with the message's own text, `base` is the message
    whose memory it refines, and `kept` are the tasks whose results in that memory stay valid.
    """

    query: str
    tasks: tuple[Task, ...]
    refinements: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    base: str | None = None

    def refined_memory(self, memory: Memory | None) -> Memory | None:
        """The memory if it is the one that this plan refines. A message that is redriven late may find another."""
        return memory if memory is not None and memory.message_id == self.base else None

    def kept_results(self, memory: Memory | None) -> dict[str, str]:
        """The kept results by the task's id. A kept task whose result is missing there runs like the others."""
        found = self.refined_memory(memory)
        return {name: found.results[name] for name in self.kept if name in found.results} if found else {}
