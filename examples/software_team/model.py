"""The model of the team: Claude where ANTHROPIC_API_KEY is set, else a script, so that the example runs offline and
says the same each time.

The agents keep each answer as a step, so that no attempt asks twice. The build is always the script.
"""

import hashlib

from examples.software_team import claude
from examples.software_team.types import ChangeRequest, CodingTask, Plan, PlanStep, StepKind
from treadle import Context


async def plan_steps(context: Context, request: ChangeRequest) -> list[PlanStep]:
    """How the request is carried out."""
    title = request.title.lower()
    steps: dict[StepKind, str] = {
        "STEP_KIND_CREATE": f"add a module for: {title}",
        "STEP_KIND_MODIFY": f"call it where the user asks for: {title}",
        "STEP_KIND_TEST": f"test: {title}",
    }
    texts = list(steps.values())
    if claude.has_key():
        details = await claude.details_of(context, request, texts)
        texts = [f"{text}. {detail}" for text, detail in zip(texts, details, strict=True)]
    return [
        PlanStep(f"{request.request_id}/{number}", kind, text)
        for number, (kind, text) in enumerate(zip(steps, texts, strict=True), 1)
    ]


def paths_of(plan: Plan, step: PlanStep) -> list[str]:
    """The files that a step touches."""
    folder = "tests" if step.kind == "STEP_KIND_TEST" else "app"
    return [f"{folder}/{plan.request_id}_{step.step_id.rpartition('/')[2]}.py"]


async def diff_of(context: Context, task: CodingTask) -> str:
    """The change that carries out a task, streamed as it comes."""
    if claude.has_key():
        return await claude.diff_of(context, task)
    diff = "\n".join(f"+++ {path}\n+# {task.goal}" for path in task.paths)
    await context.emit(diff)
    return diff


def commit_of(text: str) -> str:
    """The hash under which a change is committed."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_errors(task: CodingTask) -> list[str]:
    """What the build says of a task: a request for a flaky thing fails when its tests run."""
    is_broken = "flaky" in task.goal and task.goal.startswith("test")
    return [f"{task.paths[0]}: 1 test failed"] if is_broken else []
