"""What the stages leave in the message's log as the results of its steps: `plan`, `task <id>`, `answer`."""

import msgspec

from service.agents.resolver.memory import Memory
from service.agents.resolver.plan import Task

PLAN, ANSWER = "plan", "answer"


def of_task(name: str) -> str:
    return f"task {name}"


class Said(msgspec.Struct, frozen=True):
    """What a model said, and what that cost."""

    text: str
    usage: dict[str, int] = {}


class Planned(msgspec.Struct, frozen=True):
    """The plan of a message. Of a refinement, `refinements` ends with what the message asks, `base` is the message
    whose memory it refines, and `kept` are the tasks whose results are that memory's."""

    query: str
    tasks: tuple[Task, ...]
    refinements: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    base: str | None = None
    usage: dict[str, int] = {}

    def refined(self, memory: Memory | None) -> Memory | None:
        """The memory, if this is still the one that is refined; a message that was redriven late finds another."""
        return memory if memory is not None and memory.message_id == self.base else None

    def results_of(self, memory: Memory | None) -> dict[str, str]:
        """Those that are kept. The tasks whose results are gone are done like the others."""
        found = self.refined(memory)
        return {name: found.results[name] for name in self.kept if name in found.results} if found else {}
