"""The body of every message, and percentiles of samples."""

from collections.abc import Sequence

BODY = "x" * 200


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` of all values; `values` are sorted and not empty."""
    return values[min(len(values) - 1, int(len(values) * share))]
