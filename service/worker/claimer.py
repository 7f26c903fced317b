"""Claim messages while the worker has room, and start an attempt at each."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Collection, Sequence

from service import telemetry
from service.config import Settings
from service.errors import TreadleError
from service.leases.model import Claimed
from service.leases.store import LeaseStore
from service.messages.model import Priority
from service.waiting import wait_for
from service.worker.agent_filter import AgentFilter
from service.worker.attempts import Attempts
from service.worker.traces import Traces

log = logging.getLogger(__name__)

CLAIM_BATCH_MESSAGES = 200
CLAIM_BATCH_BYTES = 50_000_000  # about (treadle._bytes); the rest comes with the next claim
# While several tenants share the lanes, claims are small: a message that goes before a flood waits for a fraction of
# the time that two hundred of the flood's take. Smaller ones, or two at a time, cost more than they spare.
SHARED_CLAIM_BATCH_MESSAGES = 35
SHARED_SECONDS = 60.0  # since a claim brought a message of another tenant
# In each round of claims one begins at the normal lane and one at the low lane, so that no lane starves.
CLAIMS_PER_ROUND = 16
OTHER_FIRST_LANES: dict[int, Priority] = {7: "normal", 15: "low"}  # by the number of the claim in its round
# A claim that passes over many rows for what it finds: a user's transaction holds their threads.
MANY_PASSED_ROWS = 1_000  # without a message, or for each one
# Nine times what a claim spends on a row that it passes over, so that fruitless claims take at most a tenth of a core.
PAUSE_PER_PASSED_ROW_SECONDS = 0.0002
FULL_WARNING_SECONDS = 60.0  # between two warnings that the held messages leave no room
FIRST_RETRY_SECONDS = 0.02  # after a claim that passed a row over, for which no hint may come; then twice as long


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
        agent_filter: AgentFilter,
        work: asyncio.Event,
        traces: Traces,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._lease_seconds = lease_seconds
        self._store = store
        self._attempts = attempts
        self._agent_filter = agent_filter
        self._work = work
        self._traces = traces
        self._claim_calls = 0  # so far
        self._claims_from: Counter[Priority] = Counter()  # by the lane that they began at
        self._stopped = asyncio.Event()
        self._passed_rows = 0  # by the last claim that did not fill its room
        self._retry_seconds = 0.0  # how long the last look waited for such rows
        self._warned_at = -math.inf  # that the held messages leave no room
        self._seen: dict[str, float] = {}  # when a claim brought messages of a tenant, by its name
        self.is_claiming = False  # a claim is in flight

    async def run(self) -> None:
        """Claim until `stop`."""
        while not self._stopped.is_set():
            passed_rows = await self._claim_and_start()
            if passed_rows is not None and not self._stopped.is_set():  # a claim that fails clears `work`
                await wait_for(self._work, self._next_look(passed_rows))

    async def _claim_and_start(self) -> int | None:
        """Claim once. How many rows the claim passed over; None: there may be more to claim at once."""
        self._work.clear()
        is_shared = len(self._seen) > 1
        room = min(SHARED_CLAIM_BATCH_MESSAGES if is_shared else CLAIM_BATCH_MESSAGES, self._attempts.room())
        room_bytes = min(CLAIM_BATCH_BYTES, self._attempts.room_bytes())
        has_room = room > 0 and room_bytes > 0
        if room > 0 and not has_room:
            self._warn_of_held_characters()
        claimed = await self._claim(room, room_bytes) if has_room else Claimed([])
        await self._traces.begin(claimed.claims)
        for claim in claimed.claims:
            self._attempts.start(claim)
        self._see({claim.tenant for claim in claimed.claims})
        lacks_room = not has_room or claimed.is_filled or len(claimed.claims) >= room  # there may be more to claim
        self._attempts.wake_for_room = lacks_room
        if pause := pause_after(claimed.passed_rows, len(claimed.claims)):
            await wait_for(self._stopped, min(pause, self._settings.poll_interval))
        return None if lacks_room and has_room else claimed.passed_rows

    def _warn_of_held_characters(self) -> None:
        now = time.monotonic()
        if now - self._warned_at >= FULL_WARNING_SECONDS:
            self._warned_at = now
            extra = {"messages": len(self._attempts), "characters": self._attempts.held_characters}
            log.warning("the messages that run are too large together: claims wait until one ends", extra=extra)

    def _see(self, tenants: Collection[str]) -> None:
        now = time.monotonic()
        self._seen |= dict.fromkeys(tenants, now)
        self._seen = {tenant: at for tenant, at in self._seen.items() if now - at < SHARED_SECONDS}

    def _next_look(self, passed_rows: int) -> float:
        """Seconds until a claim without a hint. The transaction that holds a row which this claim passed over may be
        short, and send no hint at its end."""
        if passed_rows > self._passed_rows or not self._retry_seconds:
            self._retry_seconds = FIRST_RETRY_SECONDS
        else:
            self._retry_seconds = min(2 * self._retry_seconds, self._settings.poll_interval)
        self._passed_rows = passed_rows
        return min(self._retry_seconds, self._settings.poll_interval) if passed_rows else self._settings.poll_interval

    def stop(self) -> None:
        """Claim no more."""
        self._stopped.set()
        self._work.set()

    def _next_order(self) -> tuple[Priority, Sequence[str]]:
        """The lane at which the next claim begins, and the order of the queues.

        Each queue is the first in its turn, also among the claims that begin at the same lane.
        """
        first_lane = OTHER_FIRST_LANES.get(self._claim_calls % CLAIMS_PER_ROUND, "high")
        first_queue = self._claims_from[first_lane] % len(self._settings.queues)
        self._claim_calls += 1
        self._claims_from[first_lane] += 1
        return first_lane, [*self._settings.queues[first_queue:], *self._settings.queues[:first_queue]]

    async def _claim(self, room: int, room_bytes: int) -> Claimed:
        first_lane, queues = self._next_order()
        began = time.monotonic()
        claimed = Claimed([])
        self.is_claiming = True
        try:
            claimed = await self._store.claim(
                worker=self._worker,
                queues=queues,
                quantity=room,
                lease_seconds=self._lease_seconds,
                first_lane=first_lane,
                tenants=self._settings.tenants,
                agents=await self._agent_filter.agents(),
                room_bytes=room_bytes,
            )
            # While `is_claiming` is true: the heartbeat's thread then reads the one or the other.
            self._attempts.leases |= {claim.message_id: claim.lease for claim in claimed.claims}
        except TreadleError as error:
            log.log(error.log_level, "claim failed", extra={"error": str(error)})
            self._work.clear()  # try again at the next poll
        except Exception:
            log.exception("claim failed")
            self._work.clear()
        finally:
            self.is_claiming = False
        telemetry.claim(works=claimed.claims, room=room, seconds=time.monotonic() - began)
        return claimed


def pause_after(passed_rows: int, claimed: int) -> float:
    """Seconds to wait after a claim that passed over so many rows: with a bulk transaction open, each claim passes over
    all its threads, and hints, or room for one more message, would start one claim after the other. After a pause there
    is more room, and one claim takes more messages. It depends on no clock: on a busy machine every claim is long."""
    has_passed_many = passed_rows > MANY_PASSED_ROWS * max(1, claimed)
    return PAUSE_PER_PASSED_ROW_SECONDS * passed_rows / (1 + claimed) if has_passed_many else 0.0
