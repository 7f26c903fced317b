"""Look, once in each poll interval, which chores would find something to do: one question for all of them."""

import asyncio
import time
from collections.abc import Callable, Iterable

from service.maintenance.chore import Chore
from service.maintenance.store import MaintenanceStore
from service.waiting import wait_for

FOLLOWED_BY_ACTIVITY = ("fold_counters", "sweep")  # due for a while whenever messages have changed their state
ACTIVITY_SECONDS = 10.0
REST_SECONDS = 30.0  # a chore that nothing calls for runs that often all the same


class Lookout:
    """`wait` returns when a chore is due. All chores are due until the first look, and while a look fails."""

    name = "lookout"

    def __init__(self, worker: str, store: MaintenanceStore, poll_interval: float) -> None:
        self._worker = worker
        self._store = store
        self._poll_interval = poll_interval
        self._gates: dict[str, asyncio.Event] = {}
        self._calls: dict[str, Callable[[], None]] = {}
        self._activity: int | None = None
        self._active_at = time.monotonic()

    def watch(self, chores: Iterable[Chore]) -> None:
        for chore in chores:
            self._gates[chore.name] = asyncio.Event()
            self._gates[chore.name].set()

    def call(self, name: str, found: Callable[[], None]) -> None:
        """Call `found` at each look that finds something for this chore."""
        self._calls[name] = found

    async def run(self) -> None:
        try:
            due = await self._due()
        except Exception:
            self._open({*self._gates, *self._calls})
            raise
        self._open(due)

    async def pause(self) -> None:
        await asyncio.sleep(self._poll_interval)

    async def wait(self, chore: Chore) -> None:
        """Return when the chore is due, or has not run for REST_SECONDS."""
        gate = self._gates.get(chore.name)
        if gate is None or gate.is_set():
            return
        await wait_for(gate, REST_SECONDS)

    async def _due(self) -> set[str]:
        names, activity = await self._store.chores_due(self._worker)
        if activity != self._activity:
            self._activity = activity
            self._active_at = time.monotonic()
        if time.monotonic() - self._active_at < ACTIVITY_SECONDS:
            names.update(FOLLOWED_BY_ACTIVITY)
        return names

    def _open(self, names: set[str]) -> None:
        for name, gate in self._gates.items():
            if name in names:
                gate.set()
            else:
                gate.clear()
        for name, found in self._calls.items():
            if name in names:
                found()
