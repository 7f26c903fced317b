"""What the team asks of its model, and the protocol of a model."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from service.agents.resolver import prompts
from service.agents.resolver.memory import Memory
from service.agents.resolver.plan import Task
from service.agents.resolver.progress import Picture

Part: TypeAlias = tuple[str, str]  # a task's title, and what it came to


class _Ask(msgspec.Struct, frozen=True, kw_only=True):
    metadata: Mapping[str, Any] = {}  # of the message


class MakePlan(_Ask, frozen=True):
    """Split the query; `earlier` is what was said in the thread before. After a first try that was none, `said` and the
    `problem` with it."""

    role: ClassVar[str] = "planner"
    system: ClassVar[str] = prompts.PLANNER
    max_tokens: ClassVar[int] = 4096

    query: str
    earlier: tuple[Part, ...] = ()
    said: str | None = None
    problem: str | None = None

    def prompt(self) -> str:
        return prompts.sections(
            ("conversation so far", prompts.exchanges(self.earlier)),
            ("request", self.query),
            *prompts.again(self.said, self.problem),
        )


class RevisePlan(_Ask, frozen=True):
    """What of the last plan does this instruction touch?"""

    role: ClassVar[str] = "planner"
    system: ClassVar[str] = prompts.REVISER
    max_tokens: ClassVar[int] = 4096

    instruction: str
    memory: Memory
    said: str | None = None
    problem: str | None = None

    def prompt(self) -> str:
        last = self.memory
        return prompts.sections(
            ("request", last.query),
            ("later instructions, already carried out", prompts.listed(last.refinements)),
            ("plan", prompts.plan(last.tasks)),
            *((f"result of {task.id}", last.results.get(task.id, "")) for task in last.tasks),
            ("answer that was given", last.answer),
            ("new instruction", self.instruction),
            *prompts.again(self.said, self.problem),
        )


class DoTask(_Ask, frozen=True):
    """Carry out one task; `parts` are the results of those that it is after."""

    role: ClassVar[str] = "executor"
    system: ClassVar[str] = prompts.EXECUTOR
    max_tokens: ClassVar[int] = 4096

    query: str
    task: Task
    parts: tuple[Part, ...] = ()

    def prompt(self) -> str:
        return prompts.sections(
            ("the whole request, for orientation", self.query),
            *((f"result of: {title}", text) for title, text in self.parts),
            (f"your task: {self.task.title}", self.task.instruction),
        )


class WriteAnswer(_Ask, frozen=True):
    """Make the answer of all parts. Of a refinement, `refinements` ends with its instruction, and `last` is the answer
    that it refines."""

    role: ClassVar[str] = "aggregator"
    system: ClassVar[str] = prompts.AGGREGATOR
    max_tokens: ClassVar[int] = 8192

    query: str
    parts: tuple[Part, ...]
    refinements: tuple[str, ...] = ()
    last: str = ""

    def prompt(self) -> str:
        return prompts.sections(
            ("request", self.query),
            *((f"result of: {title}", text) for title, text in self.parts),
            ("answer that was given before", self.last),
            ("instructions since, the last one now", prompts.listed(self.refinements)),
        )


class Clarify(_Ask, frozen=True):
    """Answer a question about what is under way, or was; where there is neither, from the conversation."""

    role: ClassVar[str] = "clarifier"
    system: ClassVar[str] = prompts.CLARIFIER
    max_tokens: ClassVar[int] = 1024

    question: str
    picture: Picture | None
    earlier: tuple[Part, ...] = ()

    def prompt(self) -> str:
        return prompts.sections(
            ("conversation so far", prompts.exchanges(self.earlier)),
            *prompts.picture(self.picture),
            ("question", self.question),
        )


Ask: TypeAlias = MakePlan | RevisePlan | DoTask | WriteAnswer | Clarify


class Model(Protocol):
    """What answers. An answer to MakePlan and RevisePlan is JSON, any other Markdown."""

    name: str

    def stream(self, ask: Ask, usage: Counter[str]) -> AsyncGenerator[str, None]:
        """The answer in pieces; what it cost is added to `usage`. Raises what agents may: RetryAfter, Rejected, ..."""
