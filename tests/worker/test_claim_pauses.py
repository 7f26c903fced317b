"""A worker whose claims pass over many locked rows claims less often."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from service.config import Settings
from service.leases.model import Claimed
from service.worker import claimer
from service.worker.agent_filter import AgentFilter
from service.worker.claimer import Claimer, pause_after
from service.worker.traces import NoTraces
from tests.support.workers import never_replaced

PASSED_ROWS = 5_000


class Attempts:
    """Stands for the attempts of a worker with room for so many messages."""

    def __init__(self, room: int) -> None:
        self.leases: dict[Any, Any] = {}
        self.wake_for_room = False
        self._room = room

    def room(self) -> int:
        return self._room

    def room_bytes(self) -> int:
        return 1_000_000

    def start(self, claim: Any) -> None: ...


class Claim:
    def __init__(self) -> None:
        self.message_id, self.lease, self.tenant = uuid4(), uuid4(), "default"


class SlowStore:
    """Each claim passes over so many locked rows to so many messages, and a hint arrives meanwhile. It takes a second
    by the clock, as on a machine that is busy with other things."""

    def __init__(self, work: asyncio.Event, passed: Sequence[int], found: int) -> None:
        self.claims = 0
        self.runner: Any = None
        self._work = work
        self._passed = passed
        self._found = found

    def monotonic(self) -> float:
        return float(self.claims)

    async def claim(self, **_: Any) -> Claimed:
        self.claims += 1
        self._work.set()
        if self.claims == len(self._passed):
            self.runner.stop()
        claims: list[Any] = [Claim() for _ in range(self._found)]
        return Claimed(claims, self._passed[self.claims - 1])


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return msgspec.structs.replace(settings, poll_interval=60.0)


async def pauses_of(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    room: int,
    found: int,
    passed: Sequence[int] = (PASSED_ROWS, PASSED_ROWS, PASSED_ROWS),
) -> list[float]:
    """The pauses of a worker in these claims."""
    pauses: list[float] = []

    async def record(event: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return event.is_set()

    work = asyncio.Event()
    store: Any = SlowStore(work, passed, found)
    monkeypatch.setattr(claimer, "wait_for", record)
    monkeypatch.setattr(claimer, "time", store)
    attempts: Any = Attempts(room)
    store.runner = Claimer(
        worker="w",
        settings=settings,
        lease_seconds=60,
        store=store,
        attempts=attempts,
        agent_filter=AgentFilter((), never_replaced),
        work=work,
        traces=NoTraces(),
    )
    await store.runner.run()
    assert store.claims == len(passed)
    return pauses


async def test_a_worker_pauses_after_a_claim_that_passes_over_many_rows(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each claim a pause that no hint ends, then the wait for the next hint."""
    pauses = await pauses_of(settings, monkeypatch, room=10, found=0)
    assert pauses[::2] == [pytest.approx(1.0)] * 3


async def test_a_nearly_full_worker_pauses_after_such_a_claim_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has room for one message, and finds one behind the locked rows. Then it claims again without a hint."""
    pauses = await pauses_of(settings, monkeypatch, room=1, found=1)
    assert pauses == [pytest.approx(0.5)] * 3


async def test_a_claim_that_passes_over_few_rows_may_take_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await pauses_of(settings, monkeypatch, room=100, found=100) == []
    assert await pauses_of(settings, monkeypatch, room=1, found=1, passed=(0, 0, 900)) == []
    assert await pauses_of(settings, monkeypatch, room=10, found=0, passed=(0, 0, 0)) == [settings.poll_interval] * 2


async def test_a_worker_looks_soon_for_the_rows_that_a_short_transaction_held(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hint may come at its end. Rows that stay held are looked for less and less often."""
    pauses = await pauses_of(settings, monkeypatch, room=10, found=1, passed=(0, 3, 3, 3, 4, 0, 0))
    assert pauses == [60, 0.02, 0.04, 0.08, 0.02, 60]
    pauses = await pauses_of(settings, monkeypatch, room=10, found=1, passed=(3,) * 20)
    assert pauses[-1] == settings.poll_interval


def test_the_pause_is_shorter_the_more_messages_were_claimed() -> None:
    assert pause_after(1_000, 0) == 0
    assert pause_after(5_000, 0) == pytest.approx(1.0)
    assert pause_after(5_000, 4) == pytest.approx(0.2)
    assert pause_after(5_000, 8) == 0
