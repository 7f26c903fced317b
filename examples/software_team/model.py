"""The model of the team: a script, so that the example runs offline and says the same each time.

Put a call of your model in its place: each function is one question, and its answer is kept as a step, so that no
attempt asks it twice.
"""

import hashlib

from examples.software_team.types import ChangeRequest, CodingTask, Plan, PlanStep


def plan_steps(request: ChangeRequest) -> list[PlanStep]:
    """How the request is carried out."""
    title = request.title.lower()
    return [
        PlanStep(f"{request.request_id}/1", "STEP_KIND_CREATE", f"add a module for: {title}"),
        PlanStep(f"{request.request_id}/2", "STEP_KIND_MODIFY", f"call it where the user asks for: {title}"),
        PlanStep(f"{request.request_id}/3", "STEP_KIND_TEST", f"test: {title}"),
    ]


def paths_of(plan: Plan, step: PlanStep) -> list[str]:
    """The files that a step touches."""
    folder = "tests" if step.kind == "STEP_KIND_TEST" else "app"
    return [f"{folder}/{plan.request_id}_{step.step_id.rpartition('/')[2]}.py"]


def diff_of(task: CodingTask) -> str:
    """The change that carries out a task."""
    return "\n".join(f"+++ {path}\n+# {task.goal}" for path in task.paths)


def commit_of(text: str) -> str:
    """The hash under which a change is committed."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build_errors(task: CodingTask) -> list[str]:
    """What the build says of a task: a request for a flaky thing fails when its tests run."""
    is_broken = "flaky" in task.goal and task.goal.startswith("test")
    return [f"{task.paths[0]}: 1 test failed"] if is_broken else []
