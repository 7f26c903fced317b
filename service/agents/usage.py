"""What an attempt used, as its agent counts it."""

from typing import Any

import msgspec


class Usage:
    """Counts by the step in which they were made: steps that run side by side do not overwrite each other."""

    def __init__(self) -> None:
        self._by_step: dict[str, dict[str, Any]] = {}

    def count(self, usage: str, step: str) -> None:
        """Set these values, a JSON object, for this step."""
        self._by_step[step] = self._by_step.get(step, {}) | msgspec.json.decode(usage)

    def of_step(self, step: str) -> dict[str, Any] | None:
        return self._by_step.get(step)

    @property
    def total(self) -> dict[str, Any]:
        """Numbers are added, of other values the last one holds."""
        total: dict[str, Any] = {}
        for counts in list(self._by_step.values()):
            for name, value in counts.items():
                total[name] = total[name] + value if _is_number(value) and _is_number(total.get(name)) else value
        return total


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
