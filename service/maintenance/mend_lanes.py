"""Restore the lane rows of queued messages that have lost theirs, e.g. to a manual change."""

import asyncio
import logging
import random
import time
from uuid import UUID

from service.maintenance.chore import Arrivals
from service.maintenance.store import MaintenanceStore

log = logging.getLogger(__name__)

MEND_SECONDS = 10.0
PAUSES_PER_RUN = 50  # the chore may take a fiftieth of a connection's time


class MendLanes:
    """Each run looks at the next stretch of messages. While there are more, the next run follows soon."""

    name = "mend_lanes"

    def __init__(self, store: MaintenanceStore, arrivals: Arrivals) -> None:
        self._store = store
        self._arrivals = arrivals
        self._after: UUID | None = None
        self._took_seconds = 0.0

    async def run(self) -> None:
        began = time.monotonic()
        self._after, mended, queues = await self._store.mend_lanes(self._after)
        if mended:
            log.warning("messages had lost their lane rows", extra={"messages": mended})
            self._arrivals.in_lanes(queues)
        self._took_seconds = time.monotonic() - began

    async def pause(self) -> None:
        seconds = MEND_SECONDS * random.uniform(0.8, 1.2)
        await asyncio.sleep(seconds if self._after is None else min(seconds, self._took_seconds * PAUSES_PER_RUN))
