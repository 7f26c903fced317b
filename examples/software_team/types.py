"""What the agents hand to each other. The JSON is that of the messages of treadle.v1 (proto/), which can read it."""

from typing import Literal

from msgspec import Struct

StepKind = Literal["STEP_KIND_CREATE", "STEP_KIND_MODIFY", "STEP_KIND_TEST"]
Complexity = Literal["COMPLEXITY_LEVEL_LOW", "COMPLEXITY_LEVEL_MEDIUM", "COMPLEXITY_LEVEL_HIGH"]
BuildStatus = Literal["BUILD_STATUS_SUCCEEDED", "BUILD_STATUS_FAILED"]


class Trace(Struct, frozen=True, rename="camel"):
    """Where a value comes from: one W3C trace for the whole chain."""

    traceparent: str
    message_id: str = ""


class ChangeRequest(Struct, frozen=True, rename="camel"):
    request_id: str
    title: str
    description: str = ""
    repository: str = ""
    trace: Trace | None = None


class PlanStep(Struct, frozen=True, rename="camel"):
    step_id: str
    kind: StepKind
    description: str


class Plan(Struct, frozen=True, rename="camel"):
    plan_id: str
    request_id: str
    steps: list[PlanStep]
    rationale: str
    affected_paths: list[str]
    complexity: Complexity
    trace: Trace


class SkeletonPatch(Struct, frozen=True, rename="camel"):
    path: str
    diff: str


class CodingTask(Struct, frozen=True, rename="camel"):
    task_id: str
    plan_id: str
    goal: str
    paths: list[str]
    dependencies: list[str]
    skeleton_patches: list[SkeletonPatch]
    trace: Trace


class CommitResult(Struct, frozen=True, rename="camel"):
    task_id: str
    commit: str
    branch: str
    message: str
    paths: list[str]
    trace: Trace


class BuildReport(Struct, frozen=True, rename="camel"):
    build_id: str
    task_id: str
    status: BuildStatus
    errors: list[str]
    log: str
    trace: Trace
