"""Claude as the model of the team, through the Anthropic SDK. The SDK's own retries are off: the queue retries."""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import anthropic

from examples.software_team.types import ChangeRequest, CodingTask
from treadle import Context, Rejected

MODEL = "claude-sonnet-5"
MAX_TOKENS = 4000
RETRYABLE_STATUSES = {408, 409, 429}  # refusals that another attempt may not meet
SYSTEM = "You are a member of a software team. Be brief, and write plain English."
PLAN_TOOL = {
    "name": "plan",
    "description": "Hand over the plan.",
    "input_schema": {
        "type": "object",
        "properties": {
            "details": {
                "type": "array",
                "items": {"type": "string"},
                "description": "One sentence for each step, in the order of the steps.",
            }
        },
        "required": ["details"],
    },
}


def has_key() -> bool:
    return bool(os.environ.get("ANTHROPIC_API_KEY"))


async def details_of(context: Context, request: ChangeRequest, steps: list[str]) -> list[str]:
    """A sentence on each step of a request."""
    asked = "\n".join([f"The request: {request.title}", request.description, "The steps:", *steps])
    answer = await _ask(context, asked, tools=[PLAN_TOOL], tool_choice={"type": "tool", "name": PLAN_TOOL["name"]})
    for block in answer.content:
        if block.type == "tool_use" and isinstance(block.input, Mapping):
            details = block.input.get("details")
            if isinstance(details, list) and len(details) == len(steps) and all(isinstance(d, str) for d in details):
                return details
    raise ValueError(f"Claude's plan has no {len(steps)} sentences.")  # another attempt asks again


async def diff_of(context: Context, task: CodingTask) -> str:
    """The change that carries out a task; its text is streamed as it comes."""
    asked = f"The task: {task.goal}\nIts files: {', '.join(task.paths)}\nAnswer with a unified diff and nothing else."
    answer = await _ask(context, asked)
    return "".join(block.text for block in answer.content if block.type == "text")


@cache
def _client() -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(max_retries=0)


async def _ask(context: Context, asked: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": asked}]
    try:
        async with _client().messages.stream(
            model=MODEL, max_tokens=MAX_TOKENS, system=SYSTEM, messages=messages, **options
        ) as stream:
            async for event in stream:
                if event.type == "text":
                    await context.emit(event.text)
            answer = await stream.get_final_message()
    except anthropic.APIStatusError as error:
        if error.status_code < 500 and error.status_code not in RETRYABLE_STATUSES:
            raise Rejected(f"Claude refused the request: {error.message}") from error
        raise
    if answer.stop_reason not in {"end_turn", "tool_use"}:
        raise ConnectionError(f"Claude's answer has no end ({answer.stop_reason}).")
    context.usage(input_tokens=answer.usage.input_tokens, output_tokens=answer.usage.output_tokens)
    return answer
