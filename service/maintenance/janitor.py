"""The chores every worker shares: take back what dead workers held, admit what is due, fold, mend, purge.

Each chore is one SQL function that passes over what another janitor is at, so any number of workers may do them.
"""

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from service.config import Settings
from service.errors import TreadleError
from service.leases.store import LeaseStore
from service.waiting import wait_for

log = logging.getLogger(__name__)

ADMIT_LIMIT = 1000
FOLD_SECONDS = 1.0
TEND_SECONDS = 2.0
SWEEP_SECONDS = 2.0
WHOLE_EVERY = 15  # sweeps: then lanes are looked at from their very start
MEND_SECONDS = 10.0
PURGE_SECONDS = 60.0
PURGE_WHOLE_SECONDS = 3600.0  # between two looks at what was kept before
PARTITION_SECONDS = 3600.0
WATCH_SECONDS = 300.0

DEAD_ROWS = 200_000  # in one table: vacuum does not keep up
SNAPSHOT_SECONDS = 600.0  # age from which on a snapshot is worth a warning


class Janitor:
    """`arrived` is called when messages were put into their lanes."""

    def __init__(self, worker: str, settings: Settings, store: LeaseStore, arrived: Callable[[], None]) -> None:
        self._worker = worker
        self._settings = settings
        self._store = store
        self._arrived = arrived
        self._due: list[float] = []  # loop times at which a backoff of ours ends
        self._parents: set[UUID] = set()  # parked messages whose children may be over
        self._wake = asyncio.Event()
        self._tending = asyncio.Event()
        self._mended: UUID | None = None
        self._purged: UUID | None = None
        self._purge_whole_at = 0.0  # by time.monotonic()
        self._sweeps = 0

    def admit_in(self, seconds: float) -> None:
        """Look for due messages then, where that is sooner than the next round."""
        if seconds < self._settings.poll_interval:
            heapq.heappush(self._due, time.monotonic() + seconds)
            self._wake.set()

    def tend(self, parent: UUID) -> None:
        """Look soon whether all that this message waits for is over."""
        self._parents.add(parent)
        self._tending.set()

    async def run(self) -> None:
        """Do the chores until cancelled."""
        async with asyncio.TaskGroup() as chores:
            chores.create_task(self._admit())
            chores.create_task(self._tend())
            chores.create_task(self._every(TEND_SECONDS, self._tend_all))
            chores.create_task(self._every(self._settings.poll_interval, self._reap))
            chores.create_task(self._every(FOLD_SECONDS, self._store.fold_counters))
            chores.create_task(self._every(SWEEP_SECONDS, self._sweep))
            chores.create_task(self._every(MEND_SECONDS, self._mend))
            chores.create_task(self._every(PURGE_SECONDS, self._purge))
            chores.create_task(self._every(PARTITION_SECONDS, self._tend_partitions))
            chores.create_task(self._every(WATCH_SECONDS, self._watch))

    async def _admit(self) -> None:
        while True:
            self._wake.clear()
            pause = self._settings.poll_interval
            if self._due:
                pause = min(pause, max(0.0, self._due[0] - time.monotonic()))
            if await wait_for(self._wake, pause):
                continue  # a new time: wait for the earliest
            while self._due and self._due[0] <= time.monotonic():
                heapq.heappop(self._due)
            await self._guarded(self._admit_due)

    async def _tend(self) -> None:
        while True:
            await self._tending.wait()
            self._tending.clear()
            await self._guarded(self._tend_parents)

    async def _every(self, seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._guarded(chore)
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))

    async def _guarded(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except TreadleError as error:
            extra = {"chore": chore.__name__.strip("_"), "error": str(error)}
            log.log(error.log_level, "a chore failed, trying again later", extra=extra)
        except Exception:
            log.exception("a chore failed", extra={"chore": chore.__name__.strip("_")})

    async def _admit_due(self) -> None:
        while admitted := await self._store.admit_due(ADMIT_LIMIT):
            self._arrived()
            if admitted < ADMIT_LIMIT:
                return

    async def _tend_parents(self) -> None:
        parents, self._parents = self._parents, set()
        if await self._store.tend_parents(list(parents)):
            self._arrived()

    async def _tend_all(self) -> None:
        if await self._store.tend_parents():
            self._arrived()

    async def _reap(self) -> None:
        settings = self._settings
        if reaped := await self._store.reap(
            self._worker, settings.heartbeat_interval, settings.worker_timeout, settings.max_losses
        ):
            log.warning("took back messages of lost workers", extra={"messages": reaped})
            self._arrived()

    async def _sweep(self) -> None:
        self._sweeps += 1
        await self._store.sweep(self._sweeps % WHOLE_EVERY == 0)

    async def _mend(self) -> None:
        self._mended, mended = await self._store.mend_lanes(self._mended)
        if mended:
            log.warning("messages had lost their lane rows", extra={"messages": mended})
            self._arrived()

    async def _purge(self) -> None:
        if time.monotonic() >= self._purge_whole_at:
            self._purged = None
            self._purge_whole_at = time.monotonic() + PURGE_WHOLE_SECONDS
        while True:
            last, purged = await self._store.purge(
                self._settings.retention_hours, self._settings.dead_letter_retention_hours, self._purged
            )
            self._purged = last or self._purged
            if last is None and not purged:
                return

    async def _tend_partitions(self) -> None:
        await self._store.tend_partitions(
            max(self._settings.retention_hours, self._settings.dead_letter_retention_hours)
        )

    async def _watch(self) -> None:
        health = await self._store.vacuum_health()
        if health.snapshot_seconds is not None and health.snapshot_seconds > SNAPSHOT_SECONDS:
            log.warning(
                "an old snapshot keeps dead rows from being removed: end what holds it",
                extra={
                    "holder": health.holder,
                    "seconds": round(health.snapshot_seconds),
                    "dead_rows": health.dead_rows,
                },
            )
        elif (health.dead_rows or 0) > DEAD_ROWS:
            log.warning(
                "vacuum does not keep up with a table",
                extra={"table": health.table_name, "dead_rows": health.dead_rows},
            )
