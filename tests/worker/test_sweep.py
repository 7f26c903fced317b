"""The janitor moves the low-water marks the more often, the faster rows leave the lanes."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from service.maintenance.sweep import IDS_ABOVE, MANY_IDS_ABOVE, RAISE_SECONDS, SWEEP_SECONDS, Sweep


class Store:
    """Answers with so many ids above the marks."""

    def __init__(self, above: int) -> None:
        self.above = above
        self.calls: list[str] = []

    async def sweep(self, look_back_seconds: float | None) -> tuple[int, list[str]]:
        self.calls.append("sweep")
        return self.above, []

    async def raise_marks(self) -> int:
        self.calls.append("raise")
        return self.above


@pytest.mark.parametrize(
    ("above", "seconds", "calls"),
    [
        (0, SWEEP_SECONDS, ["sweep", "raise"]),  # no time passes here, so the second call is the small one
        (2 * IDS_ABOVE, SWEEP_SECONDS / 2, ["sweep", "raise"]),
        (MANY_IDS_ABOVE * 10, RAISE_SECONDS, ["sweep", "sweep"]),
    ],
)
async def test_the_marks_follow_fast_rows(
    above: int, seconds: float, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    store: Any = Store(above)
    arrivals: Any = type("Arrivals", (), {"in_lanes": lambda self, queues: None})()
    chore = Sweep(store, arrivals)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr("service.maintenance.sweep.time", SimpleNamespace(monotonic=lambda: 0.0))
    await chore.run()
    await chore.pause()
    await chore.run()
    assert store.calls == calls
    assert seconds * 0.79 < pauses[0] < seconds * 1.21
