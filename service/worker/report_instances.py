"""The report of a worker's warm instances, for people who ask which there are."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from service.errors import TreadleError
from service.leases.store import LeaseStore
from service.worker.instances import WarmInstance

log = logging.getLogger(__name__)

MAX_REPORTED_INSTANCES = 1_000  # of a worker
REPEAT_SECONDS = 60.0  # after which an unchanged report is sent again: the worker was declared dead, or rows were lost


async def report_instances(
    worker: str, store: LeaseStore, warm: Callable[[int], Sequence[WarmInstance]], interval: float
) -> None:
    """Send what `warm` returns whenever it has changed, at most once in `interval` seconds, until it is cancelled."""
    reported: Sequence[WarmInstance] = []
    reported_at = time.monotonic()
    while True:
        now, found = time.monotonic(), warm(MAX_REPORTED_INSTANCES)
        if found != reported or (found and now - reported_at > REPEAT_SECONDS):
            threads, agents = [one.thread for one in found], [one.agent for one in found]
            try:
                await store.report_instances(worker, threads, agents, [now - one.made_at for one in found])
                reported, reported_at = found, now
            except TreadleError as error:  # it is tried again
                log.log(error.log_level, "the warm instances cannot be reported", extra={"error": str(error)})
            except Exception:  # such as the loss of the worker's row in between: the next report may succeed
                log.exception("the warm instances cannot be reported")
        await asyncio.sleep(interval)
