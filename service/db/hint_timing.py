"""Decides whether the hint of a write travels with its commit, or follows it in a transaction of its own.

With the commit it costs no transaction, and arrives sooner. But in PostgreSQL one transaction of the whole cluster at a
time commits a NOTIFY, and it waits for the disk meanwhile: 32 sessions made 450 such commits a second where they made
7,600 without a NOTIFY, and 5,100 with one in a transaction of its own that does not wait for the disk. So where writes
with hints are slow, hints follow their commits for a while. If that makes the writes no faster, the hints are not to
blame, but a busy machine or a slow disk: then they travel with the commits again.
"""

SLOW_SECONDS = 0.005  # of a write whose hint travels with its commit
COMPARED_WRITES = 3  # of each kind: a single one may be slow or fast by chance
PERIOD_SECONDS = 10.0  # for which a decision holds
FASTER_SHARE = 0.5  # hints are to blame if a write without its hint takes at most this part of the time of one with it


class HintTiming:
    """Hears of the writes of one process that commit a single hint."""

    def __init__(self) -> None:
        self._apart_until = 0.0
        self._trusted_until = 0.0  # hints are not to blame for slow writes
        self._slow: list[float] = []  # seconds of writes with hints, in a row
        self._with_hint = 0.0  # seconds of the fastest of those that led to the last decision
        self._apart: list[float] | None = None  # seconds of writes without hints, while they are compared

    def travels(self, now: float) -> bool:
        """Whether the hint of the next write travels with its commit."""
        return now >= self._apart_until

    def note(self, now: float, seconds: float, *, hinted: bool) -> None:
        """A write has taken so long, with its hint or without it. One with a hint may have begun before the decision
        that hints follow their commits."""
        if not hinted:
            self._compare(now, seconds)
        elif seconds <= SLOW_SECONDS:
            self._slow.clear()
        elif now >= self._trusted_until and self.travels(now):
            self._slow.append(seconds)
            if len(self._slow) >= COMPARED_WRITES:
                self._with_hint = min(self._slow)
                self._slow.clear()
                self._apart_until, self._apart = now + PERIOD_SECONDS, []

    def _compare(self, now: float, seconds: float) -> None:
        if self._apart is None:
            return
        self._apart.append(seconds)
        if len(self._apart) < COMPARED_WRITES:
            return
        if min(self._apart) > FASTER_SHARE * self._with_hint:
            self._apart_until, self._trusted_until = 0.0, now + PERIOD_SECONDS
        self._apart = None
