"""Asks the planner for a plan, and once more if the plan is invalid."""

from collections import Counter

from service.agents.contract import Context, Rejected
from service.agents.resolver.conversation import complete_text, earlier_exchanges
from service.agents.resolver.memory import Memory
from service.agents.resolver.model_requests import MakePlan, Model, ModelRequest, RevisePlan
from service.agents.resolver.plan import BadPlan, Draft, read

MAX_PLAN_REQUESTS = 2  # the second one names the problem of the first plan


async def draft_plan(context: Context, model: Model, text: str, memory: Memory | None, usage: Counter[str]) -> Draft:
    """The planner's plan for this text, which refines the answer in `memory` if there is one. What it cost is added to
    `usage`. Raises Rejected after MAX_PLAN_REQUESTS invalid plans."""
    answer, problem = None, None
    for _ in range(MAX_PLAN_REQUESTS):
        request = await _request(context, text, memory, answer, problem)
        answer = await complete_text(model, request, usage)
        try:
            return read(answer, memory.tasks if memory else ())
        except BadPlan as error:
            problem = str(error)
    raise Rejected(f"The planner was asked {MAX_PLAN_REQUESTS} times and gave no valid plan: {problem}.")


async def _request(
    context: Context, text: str, memory: Memory | None, invalid_plan: str | None, problem: str | None
) -> ModelRequest:
    metadata = context.metadata
    if memory is not None:
        return RevisePlan(
            instruction=text, memory=memory, invalid_plan=invalid_plan, problem=problem, metadata=metadata
        )
    earlier = await earlier_exchanges(context)
    return MakePlan(query=text, earlier=earlier, invalid_plan=invalid_plan, problem=problem, metadata=metadata)
