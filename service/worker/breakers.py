"""One circuit breaker for each agent: while a service that an agent needs is overloaded, its messages do not ask.

A breaker opens after several overloads without an answer in between, so that a limit of one user does not stop the
others. Its pause doubles up to a minute. After each pause one message tries; if it succeeds, the breaker closes.
"""

import logging
import random
import time
from collections.abc import Callable

from service.leases.model import OutcomeKind

log = logging.getLogger(__name__)

OVERLOADS_UNTIL_OPEN = 3
MAX_PAUSE_SECONDS = 60.0
PROBE_SECONDS = 5.0  # that one message has for a try, before the next one tries as well
SILENT_KINDS = frozenset({"deferred", "released", "lost"})  # outcomes that tell nothing about the service


class Breaker:
    def __init__(self) -> None:
        self.overloads = 0  # without an answer in between
        self.open_until = 0.0  # by the clock
        self.is_probing = False  # one message was let through since the last pause


class Breakers:
    """`base_seconds`: about the first pause. `clock` gives seconds, and never goes back."""

    def __init__(self, base_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._base_seconds = base_seconds
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}  # of agents whose last outcome was an overload

    def pause_left(self, agent: str) -> float:
        """Seconds until a message of the agent may try; 0: it may try now."""
        breaker = self._breakers.get(agent)
        if breaker is None or breaker.overloads < OVERLOADS_UNTIL_OPEN:
            return 0.0
        now = self._clock()
        if now < breaker.open_until:
            return breaker.open_until - now
        breaker.open_until, breaker.is_probing = now + PROBE_SECONDS, True
        return 0.0

    def record(self, agent: str, outcome: OutcomeKind) -> None:
        """Note how an attempt ended that was allowed to try."""
        if outcome == "overloaded":
            self._note_overload(agent, self._breakers.setdefault(agent, Breaker()))
        elif outcome not in SILENT_KINDS:
            breaker = self._breakers.pop(agent, None)
            if breaker is not None and breaker.overloads >= OVERLOADS_UNTIL_OPEN:
                log.info("a service that an agent needs answers again", extra={"agent": agent})

    def _note_overload(self, agent: str, breaker: Breaker) -> None:
        if breaker.overloads >= OVERLOADS_UNTIL_OPEN and not breaker.is_probing:
            return  # its attempt began before the breaker opened
        breaker.overloads += 1
        breaker.is_probing = False
        further = breaker.overloads - OVERLOADS_UNTIL_OPEN
        if further < 0:
            return
        pause = min(MAX_PAUSE_SECONDS, 2 * self._base_seconds * 2.0 ** min(further, 30)) * random.uniform(0.5, 1.0)
        breaker.open_until = self._clock() + pause
        if further == 0:
            extra = {"agent": agent, "seconds": round(pause, 1)}
            log.warning("a service that an agent needs is overloaded: its messages wait", extra=extra)
