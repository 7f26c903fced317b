"""Restore the lane rows of queued messages that have lost theirs, e.g. to a manual change."""

import logging
from uuid import UUID

from service.maintenance.chore import Arrivals, Periodic
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)

MEND_SECONDS = 10.0


class MendLanes(Periodic):
    """Each run looks at the next stretch of messages."""

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        super().__init__("mend_lanes", MEND_SECONDS)
        self._store = store
        self._arrivals = arrivals
        self._after: UUID | None = None

    async def run(self) -> None:
        self._after, mended, queues = await self._store.mend_lanes(self._after)
        if mended:
            log.warning("messages had lost their lane rows", extra={"messages": mended})
            self._arrivals.in_lanes(queues)
