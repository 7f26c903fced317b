"""What distinguishes one agent that asks an OpenAI-compatible API from another."""

from typing import Any

import msgspec

from service.agents.openai.output import OutputForm
from service.agents.rounds.options import ModelOptions, checked
from service.limits import HISTORY_TOKENS


class OpenAIOptions(ModelOptions, frozen=True, kw_only=True):
    """The arguments of openai_agent, checked."""

    output: OutputForm | None

    def earlier_text(self, result: Any) -> str:
        return "" if self.output is None or result is None else msgspec.json.encode(result).decode()


def check(
    *, model: str | None, system: str | None, history_tokens: int | None, output: Any, **shared: Any
) -> OpenAIOptions:
    """`shared` are the arguments of rounds.options.checked. Raises ValueError or TypeError for an argument that cannot
    be used."""
    return OpenAIOptions(
        model=model,
        system=system,
        history_tokens=HISTORY_TOKENS if history_tokens is None else history_tokens,
        output=None if output is None else OutputForm(output),
        **checked(**shared),
    )
