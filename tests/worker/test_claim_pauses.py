"""A worker whose claims pass over many locked rows claims less often."""

import asyncio
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from service.config import Settings
from service.worker import claimer
from service.worker.claimer import Claimer, pause_after
from service.worker.traces import NoTraces

CLAIM_SECONDS = 0.1


class Attempts:
    """Stands for the attempts of a worker with room for so many messages."""

    def __init__(self, room: int) -> None:
        self.leases: dict[Any, Any] = {}
        self.wake_for_room = False
        self._room = room

    def room(self) -> int:
        return self._room

    def start(self, claim: Any) -> None: ...


class Claimed:
    def __init__(self) -> None:
        self.message_id, self.lease = uuid4(), uuid4()


class SlowStore:
    """Each claim passes over locked rows to so many messages, and a hint arrives meanwhile."""

    def __init__(self, work: asyncio.Event, found: int) -> None:
        self.claims = 0
        self.seconds = 0.0  # that the claims took so far
        self.runner: Any = None
        self._work = work
        self._found = found

    def monotonic(self) -> float:
        return self.seconds

    async def claim(self, **_: Any) -> list[Any]:
        self.claims += 1
        self.seconds += CLAIM_SECONDS
        self._work.set()
        if self.claims == 3:
            self.runner.stop()
        return [Claimed() for _ in range(self._found)]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, poll_interval=60.0)


async def pauses_of(settings: Settings, monkeypatch: pytest.MonkeyPatch, room: int, found: int) -> list[float]:
    """The pauses of a worker in three claims."""
    pauses: list[float] = []

    async def record(event: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return event.is_set()

    work = asyncio.Event()
    store: Any = SlowStore(work, found)
    monkeypatch.setattr(claimer, "wait_for", record)
    monkeypatch.setattr(claimer, "time", store)
    attempts: Any = Attempts(room)
    store.runner = Claimer(
        worker="w",
        settings=settings,
        lease_seconds=60,
        store=store,
        attempts=attempts,
        work=work,
        traces=NoTraces(),
    )
    await store.runner.run()
    assert store.claims == 3
    return pauses


async def test_a_worker_pauses_after_a_long_claim_without_messages(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each claim a pause that no hint ends, then the wait for the next hint."""
    pauses = await pauses_of(settings, monkeypatch, room=10, found=0)
    assert pauses == [pytest.approx(9 * CLAIM_SECONDS), settings.poll_interval] * 3


async def test_a_nearly_full_worker_pauses_after_a_long_claim_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has room for one message, and finds one behind the locked rows. Then it claims again without a hint."""
    pauses = await pauses_of(settings, monkeypatch, room=1, found=1)
    assert pauses == [pytest.approx(9 * CLAIM_SECONDS / 2)] * 3


async def test_a_claim_of_many_messages_may_take_long(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await pauses_of(settings, monkeypatch, room=100, found=100) == []


def test_the_pause_is_shorter_the_more_messages_were_claimed() -> None:
    assert pause_after(0.001, 0) == 0
    assert pause_after(0.1, 0) == pytest.approx(0.9)
    assert pause_after(0.1, 4) == pytest.approx(0.18)
    assert pause_after(0.1, 8) == 0
