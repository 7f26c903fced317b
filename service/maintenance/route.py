"""The router: give published records their offsets, and deliver them to subscriptions.

Every worker has one. The two steps are SQL functions that skip what another router is at, so each router tries again
after a moment instead of waiting for it.
"""

import asyncio
import time

from service import telemetry
from service.maintenance.chore import Arrivals
from service.maintenance.store import MaintenanceStore
from service.waiting import wait_for

ROOM_SECONDS = 0.02  # between two deliveries to subscriptions that were full: so each takes several records
BUSY_SECONDS = 0.005  # before it tries again what another transaction holds; doubled each time, up to HELD_SECONDS
HELD_SECONDS = 0.1
REST_SECONDS = 30.0  # it looks everywhere that often in any case
FAILED_SECONDS = 2.0  # until it tries again what failed
LATE_SECONDS = 2.0  # between two searches for records of transactions that stayed open for long


class Route:
    """Runs when it is told to, and for what it was not told whenever the lookout finds subscriptions or records."""

    name = "route"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals
        self._called = asyncio.Event()
        self._inbox = True  # it may hold records
        self._names: set[str] = set()  # subscriptions that may be delivered to
        self._everything = True  # all subscriptions are due
        self._late_at = 0.0  # when late records are due
        self._room: asyncio.TimerHandle | None = None
        self._delivering_seconds = 0.0  # that the last delivery took
        self._held_seconds = BUSY_SECONDS  # until the next one, where other transactions held all that was left

    def sequence(self) -> None:
        """Records were published."""
        self._inbox = True
        self._called.set()

    def look_everywhere(self) -> None:
        """There are subscriptions or records."""
        self._everything = True
        self._called.set()

    def deliver(self, subscription: str) -> None:
        """This subscription may have room for more records."""
        self._names.add(subscription)
        if self._room is None:
            # It rests for as long as it works, so that small deliveries do not take the database's time.
            seconds = max(ROOM_SECONDS, self._delivering_seconds)
            self._room = asyncio.get_running_loop().call_later(seconds, self._have_room)

    def _have_room(self) -> None:
        self._room = None
        self._called.set()

    async def run(self) -> None:
        everything, self._everything = self._everything, False
        if everything:
            self._inbox = True
        topics, names = list[int](), list[str]()
        try:
            topics = await self._sequence() if self._inbox else []
            names = self._take_names()
            if everything or topics or names:
                await self._deliver(None if everything else topics, None if everything else names)
        except Exception:
            self._keep(names, everything or bool(topics))
            raise

    def _keep(self, names: list[str], everything: bool) -> None:
        """What a failed run was to do is still to be done."""
        self._inbox = True
        self._names.update(names)
        self._everything = self._everything or everything
        self._call_again(FAILED_SECONDS)

    async def pause(self) -> None:
        if not await wait_for(self._called, REST_SECONDS):
            self._everything = True
        self._called.clear()

    async def _sequence(self) -> list[int]:
        self._inbox = False
        late = time.monotonic() >= self._late_at
        if late:
            self._late_at = time.monotonic() + LATE_SECONDS
        began = time.monotonic()
        sequenced = await self._store.sequence_records(late)
        if sequenced.topics:
            telemetry.route(topics=len(sequenced.topics), seconds=time.monotonic() - began)
        self._arrivals.in_topics(sequenced.topics)
        if sequenced.more:
            self._inbox = True
            self._call_again(0.0 if sequenced.topics else BUSY_SECONDS)
        return sequenced.topics

    def _take_names(self) -> list[str]:
        names, self._names = self._names, set()
        return list(names)

    async def _deliver(self, topics: list[int] | None, names: list[str] | None) -> None:
        began = time.monotonic()
        deliveries = await self._store.deliver_records(topics, names)
        self._delivering_seconds = time.monotonic() - began
        self._arrivals.in_lanes(set(deliveries.queues or ()))
        if deliveries.delivered:
            telemetry.deliver(messages=deliveries.delivered, seconds=self._delivering_seconds)
            self._held_seconds = BUSY_SECONDS
        if deliveries.again:
            self._names.update(deliveries.again)
            self._call_again(0.0 if deliveries.delivered else self._held_seconds)
            self._held_seconds = min(2 * self._held_seconds, HELD_SECONDS)

    def _call_again(self, seconds: float) -> None:
        """Run once more: at once or, if another transaction is at it, after a moment."""
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._called.set)
        else:
            self._called.set()
