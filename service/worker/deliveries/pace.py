"""How fast this worker delivers to each address, so that one which hangs or fails delays no other.

Each address has a part of the worker's places, and so has each tenant. A delivery that finds none, or as many others
waiting, is put off for a moment, without a failure. After several failures in a row an address is paused: until the
pause is over its deliveries fail without a request, and then one of them tries.
"""

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from service.agents.contract import Deferred
from service.places import Places

PLACES_OF_ADDRESS = 5  # a divisor: an address gets a fifth of all places
PLACES_OF_TENANT = 2  # a divisor: a tenant gets half of all places
WAIT_SECONDS = 1.0  # for a place, before the delivery is put off
MAX_PUT_OFF_SECONDS = 60.0
FAILURES_UNTIL_PAUSE = 5
FIRST_PAUSE_SECONDS = 10.0
MAX_PAUSE_SECONDS = 300.0
MAX_ADDRESSES = 10_000  # whose failures are remembered


class Health:
    """`failures`: in a row. `paused_until`: by the clock. `is_probing`: one delivery tries."""

    def __init__(self) -> None:
        self.failures = 0
        self.paused_until = 0.0
        self.is_probing = False

    def end_probe(self) -> None:
        self.is_probing = False


class Pace:
    """`places`: how many deliveries run at once in the worker. `clock` gives seconds, and never goes back."""

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._of_address = Places(max(1, places // PLACES_OF_ADDRESS))
        self._of_tenant = Places(max(1, places // PLACES_OF_TENANT))
        self._clock = clock
        self._health: OrderedDict[str, Health] = OrderedDict()  # of addresses whose last delivery failed

    def pause_left(self, address: str) -> float | None:
        """Seconds that the address is paused for; None: a delivery may try."""
        health = self._health.get(address)
        if health is None or not health.paused_until:
            return None
        left = health.paused_until - self._clock()
        return max(left, 1.0) if left > 0 or health.is_probing else None

    @contextlib.asynccontextmanager
    async def place(self, tenant: str, address: str, *, attempt: int) -> AsyncIterator[None]:
        """A place for a delivery, which is the one that tries if the address was paused. Raises Deferred where all
        places are taken. `attempt`: counts from 1."""
        with contextlib.ExitStack() as ends:
            self._begin_probe(address, ends)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    for places, key in ((self._of_address, address), (self._of_tenant, tenant)):
                        if places.is_crowded(key):  # else those that wait would take the places of other addresses
                            raise TimeoutError
                        await places.enter(key)
                        ends.callback(places.leave, key)
            except TimeoutError:
                raise put_off(attempt, "Other deliveries to the same address or of the same tenant run.") from None
            yield

    def note_success(self, address: str) -> None:
        self._health.pop(address, None)

    def note_failure(self, address: str, pause: float | None) -> None:
        """`pause`: the address asks for a pause of so many seconds."""
        health = self._health.setdefault(address, Health())
        self._health.move_to_end(address)
        if health.paused_until > self._clock():  # it began before the pause
            health.paused_until = max(health.paused_until, self._clock() + (pause or 0.0))
            return
        if len(self._health) > MAX_ADDRESSES:
            self._health.popitem(last=False)
        health.failures += 1
        if pause is None and health.failures >= FAILURES_UNTIL_PAUSE:
            further = min(health.failures - FAILURES_UNTIL_PAUSE, 10)
            pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**further) * random.uniform(0.5, 1.0)
        if pause is not None:
            health.paused_until = max(health.paused_until, self._clock() + pause)

    def _begin_probe(self, address: str, ends: contextlib.ExitStack) -> None:
        health = self._health.get(address)
        if health is not None and health.paused_until and not health.is_probing:
            health.is_probing = True
            ends.callback(health.end_probe)


def put_off(attempt: int, reason: str) -> Deferred:
    """What puts a delivery off for a moment, without a failure. `attempt`: counts from 1."""
    return Deferred(min(MAX_PUT_OFF_SECONDS, 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0), reason)
