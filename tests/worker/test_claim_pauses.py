"""A worker whose claims pass over many locked rows claims less often."""

import asyncio
from typing import Any

import pytest

from service.config import Settings
from service.leases.model import Claim
from service.worker import claimer
from service.worker.claimer import Claimer, pause_after


class NoRoomNeeded:
    """Stands for the attempts of a worker that has room."""

    def __init__(self) -> None:
        self.leases: dict[Any, Any] = {}
        self.wake_for_room = False

    def room(self) -> int:
        return 10


class FruitlessStore:
    """Each claim passes over locked rows, and a hint arrives meanwhile."""

    def __init__(self, work: asyncio.Event) -> None:
        self.claims = 0
        self._work = work

    async def claim(self, **_: Any) -> list[Claim]:
        self.claims += 1
        await asyncio.sleep(claimer.LONG_CLAIM_SECONDS)
        self._work.set()
        return []


async def test_a_worker_pauses_after_a_long_claim_without_messages(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def record(event: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 6:
            runner.stop()
        return event.is_set()

    monkeypatch.setattr(claimer, "wait_for", record)
    work = asyncio.Event()
    store: Any = FruitlessStore(work)
    attempts: Any = NoRoomNeeded()
    runner = Claimer(worker="w", settings=settings, lease_seconds=60, store=store, attempts=attempts, work=work)
    await runner.run()
    # After each claim a pause that no hint ends, then the wait for the next hint.
    assert store.claims == 3
    assert [seconds > 9 * claimer.LONG_CLAIM_SECONDS - 0.001 for seconds in pauses[::2]] == [True] * 3
    assert pauses[1::2] == [settings.poll_interval] * 3


def test_the_pause_is_shorter_the_more_messages_were_claimed() -> None:
    assert pause_after(0.001, 0) == 0
    assert pause_after(0.1, 0) == pytest.approx(0.9)
    assert pause_after(0.1, 8) == pytest.approx(0.1)
