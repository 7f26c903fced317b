"""Facts about the installation as a whole."""

from typing import Any

from msgspec import Struct

from service.limits import REMOTE_QUEUE
from service.wording import counted

DEAD_ROWS_WARNING = 200_000  # in one table
SNAPSHOT_WARNING_SECONDS = 600.0
ROUTER_WARNING_SECONDS = 10.0  # that a published record waits for its offset
MEASURED_SUBSCRIPTIONS = 50  # that have a metric of their own
NOTIFY_WARNING_USAGE = 0.25  # of PostgreSQL's queue of notifications; at half, no hints are sent


class UnclaimedQueue(Struct, frozen=True):
    """A queue from which no living worker claims, and how many messages wait in it."""

    queue: str
    queued: int


class MissingAgent(Struct, frozen=True):
    """An agent for which messages wait, and that no living worker of their queue has."""

    queue: str
    agent: str


class HealthProbe(Struct, frozen=True):
    """`release` of the schema (see service.db.schema); `live_workers` sent a heartbeat in the last ten seconds.
    `notify_usage` is how full PostgreSQL's queue of notifications is, up to 1. If `hints_sent` is false, it is too full
    for hints, and `notify_holder` is the session that probably keeps it full (None: not known). `snapshot_seconds` is
    the age of the oldest snapshot, `dead_rows` counts those of `table_name`, which has the most.
    `records_waiting_seconds`: how long the oldest published record waits for its offset."""

    release: str | None
    has_queues: bool
    live_workers: int
    hints_sent: bool
    notify_usage: float
    notify_holder: str | None
    unclaimed: list[UnclaimedQueue] = []
    missing_agents: list[MissingAgent] = []
    snapshot_seconds: float | None = None
    snapshot_holder: str | None = None
    dead_rows: int | None = None
    table_name: str | None = None
    records_waiting_seconds: float | None = None

    def reasons(self) -> list[str]:
        """What keeps messages waiting or slows the service down, each in a sentence with what to do."""
        found = self._unclaimed_reasons()
        found += [
            f"No living worker of the queue {at.queue} has the agent {at.agent}, for which messages wait: name its"
            " module in AGENTS."
            for at in self.missing_agents
        ]
        if (self.records_waiting_seconds or 0.0) > ROUTER_WARNING_SECONDS:
            found.append(
                f"Published records wait {self.records_waiting_seconds:.0f} seconds for their offsets: start a worker,"
                " or see why the workers log that the chore route fails."
            )
        if (self.snapshot_seconds or 0.0) > SNAPSHOT_WARNING_SECONDS:
            found.append(f"Dead rows are kept by an old snapshot: end {self.snapshot_holder}.")
        elif (self.dead_rows or 0) > DEAD_ROWS_WARNING:
            found.append(f"Vacuum does not keep up with {self.table_name}, which has {self.dead_rows} dead rows.")
        if not self.hints_sent:
            found.append(explain_full_notify_queue(self.notify_usage, self.notify_holder))
        elif self.notify_usage > NOTIFY_WARNING_USAGE:
            found.append(
                f"PostgreSQL's queue of notifications fills up ({self.notify_usage:.0%}): a session that listens does"
                " not read them."
            )
        return found

    def _unclaimed_reasons(self) -> list[str]:
        if self.unclaimed and self.live_workers == 0:
            total = counted(sum(at.queued for at in self.unclaimed), "message waits", "messages wait")
            return [f"No worker is alive, and {total}: start one, or see why the workers have ended."]
        return [
            f"No living worker claims from the queue {at.queue}, where"
            f" {counted(at.queued, 'message waits', 'messages wait')}: {_advice(at.queue)}."
            for at in self.unclaimed
        ]


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


class Lag(Struct, frozen=True):
    """How many records a subscription has not received."""

    subscription: str
    lag: int


class Figures(Struct, frozen=True):
    """What a scrape reads. `dead_rows`: of the table with the most; `snapshot_seconds`: the age of the oldest snapshot;
    `notify_usage`: how full the queue of notifications is, up to 1. `records_waiting_seconds`: how long the oldest
    published record waits for its offset; `records_undelivered`: those that subscriptions, which are not paused, have
    not received, in the first 10,000 pairs of a subscription and a topic. `subscriptions`: the first
    MEASURED_SUBSCRIPTIONS of the tenant default, by name."""

    queues: list[QueueFigures]
    live_workers: int
    dead_rows: int
    snapshot_seconds: float
    notify_usage: float
    records_waiting_seconds: float
    records_undelivered: int
    subscriptions: list[Lag]


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


def _advice(queue: str) -> str:
    return "start its remote worker or consumer" if queue == REMOTE_QUEUE else "name it in QUEUES"
