"""A planner, its executors and an aggregator as one agent, and a clarifier that answers while they work.

A message of a thread that already has an answer is an instruction to refine it: only the tasks that the instruction
changes run again.
"""

from collections import Counter
from typing import Unpack

from service.agents.contract import Context
from service.agents.definition import Agent
from service.agents.limits import LimitOptions
from service.agents.openai.api import Api as OpenAIApi
from service.agents.resolver.claude import Claude
from service.agents.resolver.conversation import complete_text, earlier_exchanges
from service.agents.resolver.memory import recall
from service.agents.resolver.model_requests import Clarify, Model
from service.agents.resolver.openai import OpenAI
from service.agents.resolver.progress import Progress, progress_in_memory, progress_of
from service.agents.resolver.scripted import Scripted
from service.agents.resolver.work import Work
from service.config import Settings

NAME = "resolver"
CLARIFIER = "clarifier"
TEAM_TIMEOUT_SECONDS = 1800.0  # of an attempt: up to twelve tasks, some after others
CLARIFIER_TIMEOUT_SECONDS = 120.0


def make(settings: Settings, openai: OpenAIApi | None = None) -> tuple[Agent, Agent]:
    """The agents `resolver` and `clarifier`: with Claude, with a GPT model, or with the scripted model if there is no
    API key."""
    if key := settings.anthropic_api_key:
        return team(Claude(key, settings.anthropic_base_url, settings.claude_model))
    return team(Scripted() if openai is None else OpenAI(openai))


def team(
    model: Model, name: str = NAME, clarifier: str = CLARIFIER, **limits: Unpack[LimitOptions]
) -> tuple[Agent, Agent]:
    """Make a team with a model of your own: the agent that resolves queries, and its clarifier.

    The limits are the first agent's. The clarifier waits in the queue `default` with a timeout of two minutes.
    """
    own: LimitOptions = {"timeout": TEAM_TIMEOUT_SECONDS, "while_busy": clarifier, **limits}

    async def resolve(context: Context, text: str) -> str:
        """Plans a query, works on its tasks concurrently and writes one answer; refines it when asked."""
        return await Work(context, model).run(text)

    async def clarify(context: Context, text: str) -> str:
        """Says how far a query is while another agent works on it."""
        progress = await _progress(context)
        earlier = () if progress else await earlier_exchanges(context)
        usage: Counter[str] = Counter()
        request = Clarify(question=text, progress=progress, earlier=earlier, metadata=context.metadata)
        answer = await complete_text(model, request, usage, context.emit)
        context.usage(**{**usage, "model": model.name})
        return answer

    return Agent(name, resolve, **own), Agent(clarifier, clarify, timeout=CLARIFIER_TIMEOUT_SECONDS)


async def _progress(context: Context) -> Progress | None:
    memory = recall(context.memory)
    work = await context.under_way()
    if work is not None:
        return progress_of(work, memory)
    return progress_in_memory(memory) if memory else None
