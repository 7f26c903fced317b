"""Admit parked messages whose children have ended."""

import asyncio
from uuid import UUID

from service.maintenance.chore import Arrivals, Periodic
from service.maintenance.store import MaintenanceStore

TEND_ALL_SECONDS = 2.0


class TendNamedParents:
    """Runs as soon as one of their children has ended in this worker."""

    name = "tend_parents"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals
        self._parents: set[UUID] = set()
        self._named = asyncio.Event()

    def tend(self, parent: UUID) -> None:
        """Run soon for this parked message."""
        self._parents.add(parent)
        self._named.set()

    async def run(self) -> None:
        parents, self._parents = self._parents, set()
        if parents:
            self._arrivals.in_lanes(await self._store.tend_parents(list(parents)))

    async def pause(self) -> None:
        await self._named.wait()
        self._named.clear()


class TendAllParents(Periodic):
    """For children that ended where no worker could say so: cancelled ones, and those of a worker that died."""

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        super().__init__("tend_all_parents", TEND_ALL_SECONDS)
        self._store = store
        self._arrivals = arrivals

    async def run(self) -> None:
        self._arrivals.in_lanes(await self._store.tend_parents())
