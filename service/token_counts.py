"""The tokens of a usage report. Model APIs name them differently."""

from collections.abc import Mapping
from typing import Any

INPUT_NAMES = ("input_tokens", "prompt_tokens")
OUTPUT_NAMES = ("output_tokens", "completion_tokens")


def first_count(usage: Mapping[str, Any], *names: str) -> int:
    """The first of these values that is a number, as treadle._number finds it; 0: none is. A truth value is no
    number."""
    for name in names:
        value = usage.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
    return 0
