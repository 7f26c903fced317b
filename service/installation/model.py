"""Facts about the installation as a whole."""

from typing import Any

from msgspec import Struct


class HealthProbe(Struct, frozen=True):
    """`release` of the schema (see service.db.schema); `live_workers` sent a heartbeat in the last ten seconds.
    `notify_usage` is how full PostgreSQL's queue of notifications is, up to 1. If `hints_sent` is false, it is too full
    for hints, and `notify_holder` is the session that probably keeps it full (None: not known)."""

    release: str | None
    has_queues: bool
    live_workers: int
    hints_sent: bool
    notify_usage: float
    notify_holder: str | None

    def slowed_by(self) -> str | None:
        """What slows the service down, in sentences; None: nothing does."""
        return None if self.hints_sent else explain_full_notify_queue(self.notify_usage, self.notify_holder)


class Installation(Struct, frozen=True):
    """Versions, workers and load; `functions` is the digest of the SQL files that were applied."""

    postgresql: str
    pgmq: str
    release: str
    functions: str
    workers: int
    queued: int
    processing: int


class QueueFigures(Struct, frozen=True):
    """A queue with the messages of all tenants; `ready`: those that a worker could claim now. `oldest_seconds`: for how
    long the oldest of them waits; None: there are none."""

    queue: str
    paused: bool
    queued: int
    ready: int
    processing: int
    oldest_seconds: float | None
    workers: int


class Figures(Struct, frozen=True):
    """What a scrape reads. `dead_rows`: of the table with the most; `snapshot_seconds`: the age of the oldest snapshot;
    `notify_usage`: how full the queue of notifications is, up to 1."""

    queues: list[QueueFigures]
    live_workers: int
    dead_rows: int
    snapshot_seconds: float
    notify_usage: float


class Violation(Struct, frozen=True):
    """An exception to an invariant (treadle.violations)."""

    rule: str
    subject: str
    detail: Any


def explain_full_notify_queue(usage: float, holder: str | None) -> str:
    """Two sentences on why no hints are sent. `usage` is up to 1."""
    suspect = f"probably {holder}" if holder else "see pg_stat_activity"
    return (
        f"PostgreSQL's queue of notifications is {usage:.0%} full, because a session that listens does not read them"
        f" ({suspect}). No hints are sent until it reads or ends: work is found every POLL_INTERVAL seconds."
    )
