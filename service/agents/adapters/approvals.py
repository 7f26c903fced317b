"""Tool calls that a person must approve: one question for all calls of a round, and what the answer says of each.

The question is {"approve": [{"id", "name", "input"}, ...]}. An answer is `true` or `yes` for all of them, `false` or
`no`, or any other text, which the model is told as the reason; or a list with one such answer for each call.
"""

from collections.abc import Sequence
from typing import Any

from service.agents.contract import Context, Rejected
from service.agents.tool_events import ToolCall, plain

YES = frozenset({"yes", "y", "ok", "approve", "approved", "true"})
NO = frozenset({"no", "n", "deny", "denied", "reject", "rejected", "false", ""})
DENIED_CALL_TEXT = "A person has denied this call."


async def ask_approval(context: Context, name: str, calls: Sequence[ToolCall]) -> list[str | None]:
    """For each call None if it is approved, else the reason. `name` is the name of the question. The message is parked
    until a person has answered. Raises Rejected for a list that does not have an answer for each call."""
    answer = await context.input({"approve": [plain(call) for call in calls]}, name=name)
    answers = answer if isinstance(answer, list) else [answer] * len(calls)
    if len(answers) != len(calls):
        raise Rejected(f"A list of approvals must have {len(calls)} answers, one for each call.")
    return [_reason(each) for each in answers]


def _reason(answer: Any) -> str | None:
    if isinstance(answer, str):
        word = answer.strip().rstrip(".!").casefold()
        if word in YES:
            return None
        return DENIED_CALL_TEXT if word in NO else answer
    return None if answer is True else DENIED_CALL_TEXT
