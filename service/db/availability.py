"""Logs that PostgreSQL is away: once when that is found, now and then with the extent, and once when it is back.

Each call that has to wait logs that at DEBUG (`errors.NotConnected.log_level`).
"""

import logging
import threading
import time

from service.errors import NotConnected

log = logging.getLogger(__name__)

REMINDER_SECONDS = 30.0
STEADY_SECONDS = 1.0  # without a failing call, after which PostgreSQL counts as back


class Availability:
    """One for a process; every connection reports to it, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None  # by time.monotonic(); None: PostgreSQL is not away
        self._well_since: float | None = None
        self._told = 0.0
        self._held_up = 0  # calls

    def report_away(self, error: NotConnected) -> None:
        """A call found PostgreSQL away."""
        with self._lock:
            now = time.monotonic()
            self._well_since = None
            self._held_up += 1
            reason = error.reason
            if reason.startswith("PostgreSQL cannot be "):
                reason = reason.partition(": ")[2]
            if self._since is None:
                self._since = self._told = now
                log.warning("PostgreSQL is away: %s", reason)
            elif now - self._told >= REMINDER_SECONDS:
                self._told = now
                log.warning("PostgreSQL is still away: %s", reason, extra=self._extent(now))

    def report_answer(self) -> None:
        """A call was answered."""
        if self._since is None:
            return
        with self._lock:
            now = time.monotonic()
            if self._well_since is None:
                self._well_since = now
            if self._since is not None and now - self._well_since >= STEADY_SECONDS:
                seconds = self._well_since - self._since
                log.info("PostgreSQL is back after %.1f s", seconds, extra={"calls_held_up": self._held_up})
                self._since, self._well_since, self._held_up = None, None, 0

    def _extent(self, now: float) -> dict[str, int]:
        assert self._since is not None
        return {"seconds": round(now - self._since), "calls_held_up": self._held_up}
