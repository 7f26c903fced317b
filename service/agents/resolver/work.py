"""One message's way through the team: plan, tasks, answer. What each stage came to is a durable step, so that another
attempt repeats none that is finished; what happens is told in `progress` events, and the plan in an event `plan`."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

from service.agents.contract import Context, Rejected
from service.agents.resolver.memory import Memory, cut, recall, remember
from service.agents.resolver.model_requests import Ask, DoTask, MakePlan, Model, Part, RevisePlan, WriteAnswer
from service.agents.resolver.plan import BadPlan, Draft, Task, read, ready
from service.agents.resolver.step_results import ANSWER, PLAN, Planned, Said, of_task

PARALLEL = 4  # tasks at once
EARLIER = 10  # messages of the thread that the planner of a new query is shown
EARLIER_CHARS = 4000  # of each


class Work:
    def __init__(self, context: Context, model: Model) -> None:
        self._context = context
        self._model = model
        self._usage: Counter[str] = Counter()

    async def run(self, text: str) -> str:
        memory = recall(self._context.memory)
        planned = await self._plan(text, memory)
        results = planned.results_of(memory)
        await self._tasks(planned, results)
        refined = planned.refined(memory)
        answer = await self._answer(planned, results, refined.answer if refined else "")
        now = Memory(self._context.message_id, planned.query, planned.refinements, planned.tasks, results, answer)
        remember(self._context.memory, now)
        return answer

    # The planner

    async def _plan(self, text: str, memory: Memory | None) -> Planned:
        now = False

        async def plan() -> Planned:
            nonlocal now
            now = True
            await self._tell("plan", "started", message="Planning")
            usage: Counter[str] = Counter()
            draft = await self._draft(text, memory, usage)
            if memory is None or draft.new:
                return Planned(text, draft.tasks, usage=usage)
            refinements = (*memory.refinements, text)
            return Planned(memory.query, draft.tasks, refinements, draft.kept, memory.message_id, usage)

        planned: Planned = await self._context.step(PLAN, plan)
        self._spent(planned.usage)
        kept = planned.results_of(memory)
        tasks = [{"id": t.id, "title": t.title, "after": t.after, "kept": t.id in kept} for t in planned.tasks]
        await self._context.event("plan", {"query": planned.query, "refinements": planned.refinements, "tasks": tasks})
        await self._tell("plan", "done", now, message=f"{len(tasks)} tasks, {len(kept)} of them kept")
        return planned

    async def _draft(self, text: str, memory: Memory | None, usage: Counter[str]) -> Draft:
        """The planner is asked once more where its plan is none; raises Rejected after that."""
        said, problem = None, None
        for _ in range(2):
            said = await self._say(await self._planning(text, memory, said, problem), usage)
            try:
                return read(said, memory.tasks if memory else ())
            except BadPlan as error:
                problem = str(error)
        raise Rejected(f"The planner was asked twice and gave no plan that can be used: {problem}.")

    async def _planning(self, text: str, memory: Memory | None, said: str | None, problem: str | None) -> Ask:
        metadata = self._context.metadata
        if memory is not None:
            return RevisePlan(instruction=text, memory=memory, said=said, problem=problem, metadata=metadata)
        earlier = await said_before(self._context)
        return MakePlan(query=text, earlier=earlier, said=said, problem=problem, metadata=metadata)

    # The executors

    async def _tasks(self, planned: Planned, results: dict[str, str]) -> None:
        """Run what is not in the results yet, side by side where the plan allows. After a failure none begins any more;
        those that run come to their end, for they are paid for."""
        running: dict[asyncio.Task[None], Task] = {}
        problem: BaseException | None = None
        try:
            while True:
                begun = {task.id for task in running.values()}
                free = 0 if problem else PARALLEL - len(running)
                for task in ready(planned.tasks, results, begun)[:free]:
                    running[asyncio.create_task(self._task(planned, task, results))] = task
                if not running:
                    break
                over, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for one in over:
                    running.pop(one)
                    problem = problem or one.exception()
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        if problem:
            raise problem

    async def _task(self, planned: Planned, task: Task, results: dict[str, str]) -> None:
        now = False
        counted: dict[str, Any] = {"task": task.id, "title": task.title, "total": len(planned.tasks)}

        async def execute() -> Said:
            nonlocal now
            now = True
            await self._tell("task", "started", **counted, done=len(results), message=task.title)
            parts = _parts([one for one in planned.tasks if one.id in task.after], results)
            ask = DoTask(query=planned.query, task=task, parts=parts, metadata=self._context.metadata)
            try:
                return await self._stated(ask)
            except Exception as error:
                await self._tell("task", "failed", **counted, done=len(results), message=f"{task.title}: {error}")
                raise

        said: Said = await self._context.step(of_task(task.id), execute)
        self._spent(said.usage)
        results[task.id] = said.text
        await self._tell("task", "done", now, **counted, done=len(results), message=task.title)

    # The aggregator

    async def _answer(self, planned: Planned, results: dict[str, str], last: str) -> str:
        now = False

        async def write() -> Said:
            nonlocal now
            now = True
            await self._tell("answer", "started", message="Writing the answer")
            ask = WriteAnswer(
                query=planned.query,
                parts=_parts(planned.tasks, results),
                refinements=planned.refinements,
                last=last,
                metadata=self._context.metadata,
            )
            return await self._stated(ask, self._context.emit)

        said: Said = await self._context.step(ANSWER, write)
        if not now:  # an earlier attempt wrote it, and its text is gone
            await self._context.emit(said.text)
        self._spent(said.usage)
        await self._tell("answer", "done", now, message="Done")
        return said.text

    # What they share

    async def _stated(self, ask: Ask, heard: Callable[[str], Awaitable[None]] | None = None) -> Said:
        usage: Counter[str] = Counter()
        text = await self._say(ask, usage, heard)
        return Said(text, usage)

    async def _say(self, ask: Ask, usage: Counter[str], heard: Callable[[str], Awaitable[None]] | None = None) -> str:
        return await said_by(self._model, ask, usage, heard)

    def _spent(self, usage: dict[str, int]) -> None:
        """What a step cost counts, whichever attempt took it."""
        self._usage.update(usage)
        self._context.usage(model=self._model.name, **self._usage)

    async def _tell(self, stage: str, state: str, now: bool = True, **data: Any) -> None:
        """`earlier` says that another attempt did it."""
        earlier = {} if now else {"earlier": True}
        await self._context.event("progress", {"stage": stage, "state": state, **data, **earlier})


async def said_by(
    model: Model, ask: Ask, usage: Counter[str], heard: Callable[[str], Awaitable[None]] | None = None
) -> str:
    """All that the model says, each piece told to `heard` as it comes; what it cost is added to `usage`."""
    pieces = []
    usage["calls"] += 1
    async with aclosing(model.stream(ask, usage)) as stream:
        async for piece in stream:
            pieces.append(piece)
            if heard is not None:
                await heard(piece)
    text = "".join(pieces)
    if not text.strip():
        raise RuntimeError(f"The model said nothing as the {ask.role}.")
    return text


async def said_before(context: Context) -> tuple[Part, ...]:
    """What was said in the thread before, as far as it is text."""
    exchanges = await context.history(EARLIER)
    return tuple(
        (cut(exchange.message, EARLIER_CHARS), cut(exchange.result, EARLIER_CHARS))
        for exchange in exchanges
        if isinstance(exchange.message, str) and isinstance(exchange.result, str)
    )


def _parts(tasks: Any, results: dict[str, str]) -> tuple[Part, ...]:
    return tuple((task.title, results[task.id]) for task in tasks)
