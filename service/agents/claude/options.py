"""What distinguishes one agent that asks Claude from another: model, prompt, tools, bounds and prices."""

from collections.abc import Mapping
from typing import Any

from service.agents.rounds.options import ModelOptions, checked

MIN_THINKING_TOKENS = 1024
WINDOW_TOKENS = 200_000  # that every Claude model takes in one request
OWN_TOKENS = 30_000  # for the message itself (MAX_MESSAGE_CHARS) and the definitions of tools
MIN_HISTORY_TOKENS = 10_000


class ClaudeOptions(ModelOptions, frozen=True, kw_only=True):
    """The arguments of claude_agent, checked."""

    max_tokens: int
    thinking: dict[str, Any] | None

    @property
    def thinking_tokens(self) -> int:
        """How many tokens the model may think, if `thinking` names a number."""
        return int((self.thinking or {}).get("budget_tokens", 0))


def check(
    *,
    model: str | None,
    system: str | None,
    max_tokens: int,
    thinking: int | Mapping[str, Any] | None,
    history_tokens: int | None,
    **shared: Any,
) -> ClaudeOptions:
    """`shared` are the arguments of rounds.options.checked. Raises ValueError or TypeError for an argument that cannot
    be used."""
    fields = checked(max_tokens=max_tokens, **shared)
    if isinstance(thinking, int):
        if not MIN_THINKING_TOKENS <= thinking < max_tokens:
            raise ValueError(f"thinking is at least {MIN_THINKING_TOKENS} tokens and below max_tokens ({max_tokens})")
        thinking = {"type": "enabled", "budget_tokens": thinking}
    return ClaudeOptions(
        model=model,
        system=system,
        thinking=dict(thinking) if thinking else None,
        history_tokens=_history_tokens(max_tokens) if history_tokens is None else history_tokens,
        **fields,
    )


def _history_tokens(max_tokens: int) -> int:
    """Tokens of history that leave room in the model's window for the answer, the message and the tools. They are
    counted by bytes, so a third of the window is left for the error."""
    return max(MIN_HISTORY_TOKENS, WINDOW_TOKENS * 2 // 3 - max_tokens - OWN_TOKENS)
