"""Claim messages while the worker has room, and start an attempt at each."""

import asyncio
import logging
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

CLAIM_BATCH_MESSAGES = 100
# While several tenants share the lanes, claims are small, and another one may begin while one is in flight. A message
# that goes before a flood then waits for a fraction of the time that a hundred of the flood's take.
SHARED_CLAIM_BATCH_MESSAGES = 25
SHARED_SECONDS = 60.0  # since a claim brought a message of another tenant
# In each round of claims one begins at the normal lane and one at the low lane, so that no lane starves.
CLAIMS_PER_ROUND = 16
OTHER_FIRST_LANES: dict[int, Priority] = {7: "normal", 15: "low"}  # by the number of the claim in its round
# A claim that passes over many rows for what it finds: a user's transaction holds their threads.
MANY_PASSED_ROWS = 1_000  # without a message, or for each one
# Nine times what a claim spends on a row that it passes over, so that fruitless claims take at most a tenth of a core.
PAUSE_PER_PASSED_ROW_SECONDS = 0.0002
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
        self._asked = 0  # messages that the claims in flight ask for
        self._missed = False  # work arrived while such claims had all room: they may be older than it
        self._seen: dict[str, float] = {}  # when a claim brought messages of a tenant, by its name
        self._shared = asyncio.Event()  # several tenants were seen of late

    @property
    def is_claiming(self) -> bool:
        """A claim is in flight."""
        return self._asked > 0

    async def run(self) -> None:
        """Claim until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._claim_always())
            tasks.create_task(self._claim_beside())

    async def _claim_always(self) -> None:
        while not self._stopped.is_set():
            passed_rows = await self._claim_and_start()
            if passed_rows is not None:
                await self._wait_for_work(self._next_look(passed_rows))

    async def _claim_beside(self) -> None:
        """While tenants share the lanes, begin another claim beside the one that is in flight."""
        while not self._stopped.is_set():
            await self._shared.wait()
            await self._wait_for_work(None)
            is_full = True  # the last claim was
            while is_full and self._shared.is_set() and not self._stopped.is_set():
                is_full = await self._claim_and_start() is None

    async def _wait_for_work(self, seconds: float | None) -> None:
        """Until there may be messages that no claim in flight looks for, or `stop`; at most so long."""
        while not self._stopped.is_set() and await wait_for(self._work, seconds) and not self._work.is_set():
            pass  # the other waiter was faster

    async def _claim_and_start(self) -> int | None:
        """Claim once. How many rows the claim passed over; None: there may be more to claim at once."""
        self._work.clear()
        batch = SHARED_CLAIM_BATCH_MESSAGES if self._shared.is_set() else CLAIM_BATCH_MESSAGES
        room = min(batch, self._attempts.room() - self._asked)
        if room <= 0 and self._asked:
            self._missed = True
            return 0
        self._asked += max(0, room)
        try:
            claimed = await self._claim(room) if room > 0 else Claimed([])
            await self._traces.begin(claimed.claims)
            for claim in claimed.claims:
                self._attempts.start(claim)
        finally:  # their places are taken now
            self._asked -= max(0, room)
        self._see({claim.tenant for claim in claimed.claims})
        lacks_room = len(claimed.claims) >= room  # there may be more to claim
        self._attempts.wake_for_room = lacks_room or (self._attempts.wake_for_room and self.is_claiming)
        if self._missed:
            self._missed = False
            self._work.set()
        if pause := pause_after(claimed.passed_rows, len(claimed.claims)):
            await wait_for(self._stopped, min(pause, self._settings.poll_interval))
        return None if lacks_room and room > 0 else claimed.passed_rows

    def _see(self, tenants: Collection[str]) -> None:
        now = time.monotonic()
        self._seen |= dict.fromkeys(tenants, now)
        self._seen = {tenant: at for tenant, at in self._seen.items() if now - at < SHARED_SECONDS}
        if len(self._seen) > 1:
            self._shared.set()
        else:
            self._shared.clear()

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
        self._shared.set()
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

    async def _claim(self, room: int) -> Claimed:
        first_lane, queues = self._next_order()
        began = time.monotonic()
        claimed = Claimed([])
        try:
            claimed = await self._store.claim(
                worker=self._worker,
                queues=queues,
                quantity=room,
                lease_seconds=self._lease_seconds,
                first_lane=first_lane,
                tenants=self._settings.tenants,
                agents=await self._agent_filter.agents(),
            )
            # While `is_claiming` is true: the heartbeat's thread then reads the one or the other.
            self._attempts.leases |= {claim.message_id: claim.lease for claim in claimed.claims}
        except TreadleError as error:
            log.log(error.log_level, "claim failed", extra={"error": str(error)})
            self._work.clear()  # try again at the next poll
        except Exception:
            log.exception("claim failed")
            self._work.clear()
        telemetry.claim(works=claimed.claims, room=room, seconds=time.monotonic() - began)
        return claimed


def pause_after(passed_rows: int, claimed: int) -> float:
    """Seconds to wait after a claim that passed over so many rows: with a bulk transaction open, each claim passes over
    all its threads, and hints, or room for one more message, would start one claim after the other. After a pause there
    is more room, and one claim takes more messages. It depends on no clock: on a busy machine every claim is long."""
    has_passed_many = passed_rows > MANY_PASSED_ROWS * max(1, claimed)
    return PAUSE_PER_PASSED_ROW_SECONDS * passed_rows / (1 + claimed) if has_passed_many else 0.0
