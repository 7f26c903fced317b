"""Claim messages while the worker has room, and start an attempt at each."""

import asyncio
import logging
import time

from service.config import Settings
from service.errors import TreadleError
from service.leases.model import Claim
from service.leases.store import LeaseStore
from service.waiting import wait_for
from service.worker.attempts import Attempts

log = logging.getLogger(__name__)

CLAIM_BATCH_MESSAGES = 100
CLAIMS_PER_REVERSE_CLAIM = 16  # Every 16th claim begins at the low lane, so that the low lane never starves.


class Claimer:
    """`work` is set when there may be messages to claim."""

    def __init__(
        self,
        *,
        worker: str,
        settings: Settings,
        lease_seconds: float,
        store: LeaseStore,
        attempts: Attempts,
        work: asyncio.Event,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._lease_seconds = lease_seconds
        self._store = store
        self._attempts = attempts
        self._work = work
        self._claim_calls = 0  # so far
        self._stopping = False
        self.claiming_since: float | None = None  # by time.monotonic(): the claim in flight

    async def run(self) -> None:
        """Claim until `stop`."""
        while not self._stopping:
            self._work.clear()
            room = min(CLAIM_BATCH_MESSAGES, self._attempts.room())
            claims = await self._claim(room) if room > 0 else []
            for claim in claims:
                self._attempts.start(claim)
            lacks_room = len(claims) >= room  # there may be more to claim
            self._attempts.wake_for_room = lacks_room
            if not lacks_room or room <= 0:
                await wait_for(self._work, self._settings.poll_interval)

    def stop(self) -> None:
        """Claim no more."""
        self._stopping = True
        self._work.set()

    async def _claim(self, quantity: int) -> list[Claim]:
        self._claim_calls += 1
        self.claiming_since = time.monotonic()
        try:
            claims = await self._store.claim(
                worker=self._worker,
                queues=self._settings.queues,
                quantity=quantity,
                lease_seconds=self._lease_seconds,
                reverse=self._claim_calls % CLAIMS_PER_REVERSE_CLAIM == 0,
            )
            # Before `claiming_since` is cleared: the heartbeat's thread then reads the one or the other.
            self._attempts.leases |= {claim.message_id: claim.lease for claim in claims}
            return claims
        except TreadleError as error:
            log.log(error.log_level, "claim failed", extra={"error": str(error)})
        except Exception:
            log.exception("claim failed")
        finally:
            self.claiming_since = None
        self._work.clear()  # try again at the next poll
        return []
