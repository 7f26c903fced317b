"""The chores that all workers share: reap messages of dead workers, admit due ones, fold, mend, purge.

Each chore is a module of this package, whose docstring says what it does, and one SQL function that skips what another
janitor works on, so any number of workers may run them. Some chores run at their pace only while the lookout finds
something for them (lookout.py).
"""

import asyncio
import logging
from uuid import UUID

from service.config import Settings
from service.errors import TreadleError
from service.maintenance.admit_due import AdmitDue
from service.maintenance.chore import Arrivals, Chore
from service.maintenance.delete_tenants import DeleteTenants
from service.maintenance.end_tenant_sessions import EndTenantSessions
from service.maintenance.fold_counters import FoldCounters
from service.maintenance.fold_stores import FoldStores
from service.maintenance.lookout import Lookout
from service.maintenance.mend_lanes import MendLanes
from service.maintenance.pace_vacuum import PaceVacuum
from service.maintenance.purge import Purge
from service.maintenance.purge_audit import PurgeAudit
from service.maintenance.purge_records import PurgeRecords
from service.maintenance.purge_stats import PurgeStats
from service.maintenance.purge_store_items import PurgeStoreItems
from service.maintenance.reap import Reap
from service.maintenance.route import Route
from service.maintenance.store import MaintenanceStore
from service.maintenance.sweep import Sweep
from service.maintenance.tend_parents import TendAllParents, TendNamedParents
from service.maintenance.tend_partitions import TendPartitions
from service.maintenance.watch_notify import WatchNotify
from service.maintenance.watch_queues import WatchQueues
from service.maintenance.watch_vacuum import WatchVacuum

log = logging.getLogger(__name__)


class Janitor:
    def __init__(self, *, worker: str, settings: Settings, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._lookout = Lookout(worker, store, settings.poll_interval)
        self._admit_due = AdmitDue(store, arrivals)
        self._tend_named_parents = TendNamedParents(store, arrivals)
        self._route = Route(store, arrivals)
        self._lookout.call(self._admit_due.name, self._admit_due.run_now)
        self._lookout.call(self._route.name, self._route.look_everywhere)
        watched: list[Chore] = [
            TendAllParents(store, arrivals),
            Reap(worker, settings, store, arrivals),
            FoldCounters(store),
            Sweep(store, arrivals),
            DeleteTenants(store),
            EndTenantSessions(store),
        ]
        self._lookout.watch(watched)
        self._chores: list[Chore] = [
            self._lookout,
            self._admit_due,
            self._route,
            self._tend_named_parents,
            *watched,
            MendLanes(store, arrivals),
            Purge(settings, store),
            PurgeAudit(settings, store),
            PurgeRecords(store),
            PurgeStats(store),
            PurgeStoreItems(store),
            FoldStores(store),
            TendPartitions(settings, store),
            PaceVacuum(store),
            WatchVacuum(store),
            WatchNotify(store),
            WatchQueues(store),
        ]

    def admit_in(self, seconds: float) -> None:
        """Admit due messages after so many seconds, if that is sooner than the next round."""
        self._admit_due.run_in(seconds)

    def tend(self, parent: UUID) -> None:
        """Check soon whether all children of this parked message have ended."""
        self._tend_named_parents.tend(parent)

    def route(self) -> None:
        """Records were published: give them their offsets, and deliver them."""
        self._route.sequence()

    def deliver(self, subscription: str) -> None:
        """This subscription (`tenant/subscription`) may have room for more records."""
        self._route.deliver(subscription)

    async def run(self) -> None:
        """Do the chores until cancelled. A chore that fails is repeated after its pause."""
        async with asyncio.TaskGroup() as chores:
            for chore in self._chores:
                chores.create_task(_repeat(chore, self._lookout))


async def _repeat(chore: Chore, lookout: Lookout) -> None:
    while True:
        try:
            await lookout.wait(chore)
            await chore.run()
        except TreadleError as error:
            extra = {"chore": chore.name, "error": str(error)}
            log.log(error.log_level, "a chore failed, trying again later", extra=extra)
        except Exception:
            log.exception("a chore failed", extra={"chore": chore.name})
        await chore.pause()
