"""One message's way through the team: plan, tasks, answer.

The result of each stage is a durable step, so that a later attempt repeats no stage that has finished. `progress`
events say what happens; an event `plan` has the plan.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from service.agents.contract import Context
from service.agents.resolver.conversation import complete_text
from service.agents.resolver.memory import Memory, recall, remember
from service.agents.resolver.model_requests import DoTask, Model, ModelRequest, TitledResult, WriteAnswer
from service.agents.resolver.plan import Task, ready
from service.agents.resolver.planning import draft_plan
from service.agents.resolver.step_results import ANSWER_STEP, PLAN_STEP, PlanResult, TextResult, task_step

MAX_PARALLEL_TASKS = 4


class Work:
    """One attempt of the team at a message."""

    def __init__(self, context: Context, model: Model) -> None:
        self._context = context
        self._model = model

    async def run(self, text: str) -> str:
        memory = recall(self._context.memory)
        plan = await self._plan(text, memory)
        results = plan.kept_results(memory)
        await self._run_tasks(plan, results)
        refined = plan.refined_memory(memory)
        answer = await self._write_answer(plan, results, refined.answer if refined else "")
        written = Memory(self._context.message_id, plan.query, plan.refinements, plan.tasks, results, answer)
        remember(self._context.memory, written)
        return answer

    # The planner

    async def _plan(self, text: str, memory: Memory | None) -> PlanResult:
        runs_now = False

        async def make_plan() -> PlanResult:
            nonlocal runs_now
            runs_now = True
            await self._write_progress("plan", "started", message="Planning")
            usage: Counter[str] = Counter()
            draft = await draft_plan(self._context, self._model, text, memory, usage)
            self._count(usage)
            if memory is None or draft.new:
                return PlanResult(text, draft.tasks)
            refinements = (*memory.refinements, text)
            return PlanResult(memory.query, draft.tasks, refinements, draft.kept, memory.message_id)

        plan: PlanResult = await self._context.step(PLAN_STEP, make_plan)
        kept = plan.kept_results(memory)
        tasks = [{"id": t.id, "title": t.title, "after": t.after, "kept": t.id in kept} for t in plan.tasks]
        await self._context.event("plan", {"query": plan.query, "refinements": plan.refinements, "tasks": tasks})
        await self._write_progress("plan", "done", runs_now, message=f"{len(tasks)} tasks, {len(kept)} of them kept")
        return plan

    # The executors

    async def _run_tasks(self, plan: PlanResult, results: dict[str, str]) -> None:
        """Run the tasks that have no result yet, concurrently where the plan allows it. After a failure no task begins,
        but the running ones finish, because their results are stored for the next attempt."""
        running: dict[asyncio.Task[None], Task] = {}
        problem: BaseException | None = None
        try:
            while True:
                running_ids = {task.id for task in running.values()}
                free = 0 if problem else MAX_PARALLEL_TASKS - len(running)
                for task in ready(plan.tasks, results, running_ids)[:free]:
                    running[asyncio.create_task(self._run_task(plan, task, results))] = task
                if not running:
                    break
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for run in ended:
                    running.pop(run)
                    problem = problem or run.exception()
        finally:
            for run in running:
                run.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if problem:
            raise problem

    async def _run_task(self, plan: PlanResult, task: Task, results: dict[str, str]) -> None:
        runs_now = False
        data: dict[str, Any] = {"task": task.id, "title": task.title, "total": len(plan.tasks)}

        async def execute() -> TextResult:
            nonlocal runs_now
            runs_now = True
            await self._write_progress("task", "started", **data, done=len(results), message=task.title)
            inputs = _titled([other for other in plan.tasks if other.id in task.after], results)
            request = DoTask(query=plan.query, task=task, inputs=inputs, metadata=self._context.metadata)
            try:
                return await self._text_result(request)
            except Exception as error:
                message = f"{task.title}: {error}"
                await self._write_progress("task", "failed", **data, done=len(results), message=message)
                raise

        result: TextResult = await self._context.step(task_step(task.id), execute)
        results[task.id] = result.text
        await self._write_progress("task", "done", runs_now, **data, done=len(results), message=task.title)

    # The aggregator

    async def _write_answer(self, plan: PlanResult, results: dict[str, str], last_answer: str) -> str:
        runs_now = False

        async def write() -> TextResult:
            nonlocal runs_now
            runs_now = True
            await self._write_progress("answer", "started", message="Writing the answer")
            request = WriteAnswer(
                query=plan.query,
                results=_titled(plan.tasks, results),
                refinements=plan.refinements,
                last_answer=last_answer,
                metadata=self._context.metadata,
            )
            return await self._text_result(request, self._context.emit)

        result: TextResult = await self._context.step(ANSWER_STEP, write)
        if not runs_now:  # an earlier attempt wrote it; this attempt has not streamed it yet
            await self._context.emit(result.text)
        await self._write_progress("answer", "done", runs_now, message="Done")
        return result.text

    # What the stages share

    async def _text_result(
        self, request: ModelRequest, emit: Callable[[str], Awaitable[None]] | None = None
    ) -> TextResult:
        usage: Counter[str] = Counter()
        text = await complete_text(self._model, request, usage, emit)
        self._count(usage)
        return TextResult(text)

    def _count(self, usage: Counter[str]) -> None:
        """Called within a step: a later attempt that receives the step's result does not count it again."""
        self._context.usage(**{**usage, "model": self._model.name})

    async def _write_progress(self, stage: str, state: str, runs_now: bool = True, **data: Any) -> None:
        """Write a `progress` event. It has `earlier` if an earlier attempt ran the stage."""
        earlier = {} if runs_now else {"earlier": True}
        await self._context.event("progress", {"stage": stage, "state": state, **data, **earlier})


def _titled(tasks: Iterable[Task], results: dict[str, str]) -> tuple[TitledResult, ...]:
    return tuple((task.title, results[task.id]) for task in tasks)
