"""The agents of the team. Each reads one topic and publishes to the next ones; nothing else connects them.

What a handler publishes is committed with its completion (`exactly_once`): if a worker dies in the middle, another one
runs the handler again, and no record is doubled or lost.
"""

import secrets

from examples.software_team import model
from examples.software_team.types import (
    BuildReport,
    ChangeRequest,
    CodingTask,
    CommitResult,
    Plan,
    PlanStep,
    SkeletonPatch,
    Trace,
)
from treadle import Context, Rejected, agent

TOPICS = ("plan.in", "plan.out", "code.plan.in", "coding.task.in", "commit.result", "build.report")
SUBSCRIPTIONS = {
    "request-planner": {"topics": "plan.in", "agent": "request_planner"},
    "code-planner": {"topics": "code.plan.in", "agent": "code_planner"},
    "coding-agent": {"topics": "coding.task.in", "agent": "coding_agent"},
    # The compensation reads only the builds that failed.
    "compensator": {
        "topics": "build.report",
        "agent": "compensator",
        "filter": {"value": {"status": "BUILD_STATUS_FAILED"}},
    },
}
BRANCH = "change/{}"


@agent("orchestrator")
async def orchestrator(context: Context, request: ChangeRequest) -> dict[str, str]:
    """Takes a request from outside, begins its trace, and hands it to the planner."""

    def begin_trace() -> str:
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"

    trace = Trace(await context.step("trace", begin_trace), context.message_id)
    traced = ChangeRequest(request.request_id, request.title, request.description, request.repository, trace)
    await context.publish("plan.in", traced, key=request.request_id)
    return {"requestId": request.request_id, "traceparent": trace.traceparent}


@agent("request_planner", timeout=300)
async def request_planner(context: Context, request: ChangeRequest) -> Plan:
    """Makes a plan of a request: for readers (`plan.out`), and for the agent that carries it out (`code.plan.in`)."""
    if "impossible" in request.title:
        raise Rejected(f"There is no plan for: {request.title}.")  # a dead letter, for a person
    assert request.trace is not None

    async def ask_for_steps() -> list[PlanStep]:
        return await model.plan_steps(context, request)

    plan = Plan(
        plan_id=f"plan-{request.request_id}",
        request_id=request.request_id,
        steps=await context.step("plan", ask_for_steps),
        rationale="A module, its call, and its test.",
        affected_paths=["app/", "tests/"],
        complexity="COMPLEXITY_LEVEL_LOW",
        trace=request.trace,
    )
    await context.publish("plan.out", plan, key=request.request_id)
    await context.publish("code.plan.in", plan, key=request.request_id)
    return plan


@agent("code_planner")
async def code_planner(context: Context, plan: Plan) -> list[str]:
    """Turns the steps of a plan into tasks. Those of one plan have one key: they are carried out in their order."""
    before: list[str] = []
    for step in plan.steps:
        paths = model.paths_of(plan, step)
        task = CodingTask(
            task_id=step.step_id,
            plan_id=plan.plan_id,
            goal=step.description,
            paths=paths,
            dependencies=before[-1:],
            skeleton_patches=[SkeletonPatch(path, f"+++ {path}") for path in paths],
            trace=plan.trace,
        )
        before.append(task.task_id)
        await context.publish("coding.task.in", task, key=plan.plan_id)
    return before


@agent("coding_agent", timeout=300)  # Claude may write for minutes
async def coding_agent(context: Context, task: CodingTask) -> str:
    """Writes the change of a task, commits it, and builds."""

    async def write() -> str:
        return await model.diff_of(context, task)

    diff = await context.step("write", write)
    branch = BRANCH.format(task.plan_id)
    commit = CommitResult(task.task_id, model.commit_of(diff), branch, task.goal, task.paths, task.trace)
    await context.publish("commit.result", commit, key=task.plan_id)
    errors = model.build_errors(task)
    report = BuildReport(
        build_id=f"build-{task.task_id}",
        task_id=task.task_id,
        status="BUILD_STATUS_FAILED" if errors else "BUILD_STATUS_SUCCEEDED",
        errors=errors,
        log=f"built {commit.commit}",
        trace=task.trace,
    )
    await context.publish("build.report", report, key=task.plan_id)
    return commit.commit


@agent("compensator")
async def compensator(context: Context, report: BuildReport) -> list[str]:
    """The saga: a build failed, so the commits of its plan are taken back, the last one first."""
    request_id, _, last = report.task_id.rpartition("/")
    reverted = []
    for number in range(int(last), 0, -1):
        task_id = f"{request_id}/{number}"
        message = f"Revert {task_id}: {report.errors[0]}"
        branch = BRANCH.format(f"plan-{request_id}")
        commit = CommitResult(task_id, model.commit_of(message), branch, message, [], report.trace)
        await context.publish("commit.result", commit, key=f"plan-{request_id}")
        reverted.append(task_id)
    return reverted
