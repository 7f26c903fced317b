"""The message that is sent everywhere, and how many samples become one number."""

from collections.abc import Sequence

BODY = "x" * 200


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is no less than `share` of all; `values` sorted, not empty."""
    return values[min(len(values) - 1, int(len(values) * share))]
