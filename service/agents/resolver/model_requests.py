"""The requests that the team sends to its model, and the protocol of a model."""

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from service.agents.resolver import prompts
from service.agents.resolver.memory import Memory
from service.agents.resolver.plan import Task
from service.agents.resolver.progress import Progress

TitledResult: TypeAlias = tuple[str, str]  # a task's title, and its result
TextExchange: TypeAlias = tuple[str, str]  # an earlier message of the thread, and its answer


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    metadata: Mapping[str, Any] = {}  # of the message


class MakePlan(_Request, frozen=True):
    """Split the query into tasks. The second request after an invalid plan has that plan and its `problem`."""

    role: ClassVar[str] = "planner"
    system: ClassVar[str] = prompts.PLANNER
    max_tokens: ClassVar[int] = 4096

    query: str
    earlier: tuple[TextExchange, ...] = ()
    invalid_plan: str | None = None
    problem: str | None = None

    def prompt(self) -> str:
        return prompts.sections(
            ("conversation so far", prompts.exchanges(self.earlier)),
            ("request", self.query),
            *prompts.correction(self.invalid_plan, self.problem),
        )


class RevisePlan(_Request, frozen=True):
    """Decide which parts of the last plan an instruction changes."""

    role: ClassVar[str] = "planner"
    system: ClassVar[str] = prompts.REVISER
    max_tokens: ClassVar[int] = 4096

    instruction: str
    memory: Memory
    invalid_plan: str | None = None
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
            *prompts.correction(self.invalid_plan, self.problem),
        )


class DoTask(_Request, frozen=True):
    """Carry out one task. `inputs` are the results of the tasks that it comes after."""

    role: ClassVar[str] = "executor"
    system: ClassVar[str] = prompts.EXECUTOR
    max_tokens: ClassVar[int] = 4096

    query: str
    task: Task
    inputs: tuple[TitledResult, ...] = ()

    def prompt(self) -> str:
        return prompts.sections(
            ("the whole request, for orientation", self.query),
            *((f"result of: {title}", text) for title, text in self.inputs),
            (f"your task: {self.task.title}", self.task.instruction),
        )


class WriteAnswer(_Request, frozen=True):
    """Write the answer from all results. For a refinement, `refinements` ends with its instruction, and `last_answer`
    is the answer that it refines."""

    role: ClassVar[str] = "aggregator"
    system: ClassVar[str] = prompts.AGGREGATOR
    max_tokens: ClassVar[int] = 8192

    query: str
    results: tuple[TitledResult, ...]
    refinements: tuple[str, ...] = ()
    last_answer: str = ""

    def prompt(self) -> str:
        return prompts.sections(
            ("request", self.query),
            *((f"result of: {title}", text) for title, text in self.results),
            ("answer that was given before", self.last_answer),
            ("instructions since, the last one now", prompts.listed(self.refinements)),
        )


class Clarify(_Request, frozen=True):
    """Answer a question about the query under way, or about the last one. Without `progress`, the thread has neither,
    and the answer comes from the `earlier` conversation."""

    role: ClassVar[str] = "clarifier"
    system: ClassVar[str] = prompts.CLARIFIER
    max_tokens: ClassVar[int] = 1024

    question: str
    progress: Progress | None
    earlier: tuple[TextExchange, ...] = ()

    def prompt(self) -> str:
        return prompts.sections(
            ("conversation so far", prompts.exchanges(self.earlier)),
            *prompts.progress(self.progress),
            ("question", self.question),
        )


ModelRequest: TypeAlias = MakePlan | RevisePlan | DoTask | WriteAnswer | Clarify


class Model(Protocol):
    """A model of the team. It answers MakePlan and RevisePlan with JSON, the other requests with Markdown."""

    name: str

    def stream(self, request: ModelRequest, usage: Counter[str]) -> AsyncGenerator[str, None]:
        """Yield the answer in pieces, and add what it cost to `usage`. Raises what agents may raise."""
