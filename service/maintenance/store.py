"""The chores in PostgreSQL, each one SQL function. Concurrent calls skip the rows that another one has locked."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from service.db.pool import DELETION_TIMEOUT_SECONDS, Database


class VacuumHealth(msgspec.Struct, frozen=True):
    """The table with most dead rows (if they are a tenth or more), and the oldest snapshot that keeps them."""

    dead_rows: int | None
    table_name: str | None
    snapshot_seconds: float | None
    holder: str | None


class Reaped(msgspec.Struct, frozen=True):
    """A message that was taken back from a dead worker; `thread` is threads.id."""

    message_id: UUID
    thread: int | None
    queue: str


class NotifyHealth(msgspec.Struct, frozen=True):
    """How full the queue of notifications is (up to 1), whether hints are sent, and which session probably keeps it
    full."""

    usage: float
    hints_sent: bool
    holder: str | None


class Sequenced(msgspec.Struct, frozen=True):
    """The topics (topics.id) whose logs grew, and whether there may be more to do at once."""

    topics: list[int]
    more: bool


class Deliveries(msgspec.Struct, frozen=True):
    """What one call delivered. `again` names the subscriptions (`tenant/subscription`) that are still behind, and can
    be delivered to or hold records."""

    delivered: int
    queues: list[str] | None
    again: list[str] | None


class MaintenanceStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def reap(
        self, *, janitor: str, heartbeat_interval: float, worker_timeout: float, max_losses: int
    ) -> list[Reaped]:
        """Requeue or fail the messages of dead workers; returns them. `heartbeat_interval`: seconds between
        two heartbeats of a worker, the same for all workers."""
        rows = await self._database.fetch(
            "select message_id, thread, queue from treadle.reap($1, $2, $3, $4)",
            janitor,
            heartbeat_interval,
            worker_timeout,
            max_losses,
        )
        return [Reaped(*row) for row in rows]

    async def chores_due(self, janitor: str) -> tuple[set[str], int]:
        """The names of the chores that would find something to do, and a number that grows whenever messages change
        their state."""
        row = await self._database.fetchrow("select names, activity from treadle.chores_due($1)", janitor)
        assert row is not None
        return set(row["names"]), row["activity"]

    async def admit_due(self, limit: int) -> tuple[int, list[str]]:
        """Admit up to `limit` messages whose time has come; returns how many, and their queues."""
        row = await self._database.fetchrow("select admitted, queues from treadle.admit_due($1)", limit)
        assert row is not None
        return row["admitted"], row["queues"] or []

    async def tend_parents(self, message_ids: Sequence[UUID] | None = None) -> list[str]:
        """Admit those of these parked messages (None: of all) whose children have ended; returns the queues that may
        have messages to claim now."""
        queues = await self._database.fetchval("select queues from treadle.tend_parents($1)", message_ids)
        return queues or []

    async def fold_counters(self) -> None:
        """Add up the deltas of the queues' counters."""
        await self._database.fetchval("select treadle.fold_counters()")

    async def fold_subscriptions(self) -> None:
        """Add up the deltas of the counts of subscriptions."""
        await self._database.fetchval("select treadle.fold_subscriptions()")

    async def sequence_records(self, late: bool) -> Sequenced:
        """Give published records their offsets. `late`: also those of transactions that stayed open for long."""
        row = await self._database.fetchrow("select topics, more from treadle.sequence_records(late => $1)", late)
        assert row is not None
        return Sequenced(*row)

    async def deliver_records(
        self, topics: Sequence[int] | None = None, names: Sequence[str] | None = None
    ) -> Deliveries:
        """Turn the next records into messages, for the subscriptions of these topics and those with these names
        (`tenant/subscription`); both None: for all."""
        row = await self._database.fetchrow(
            f"select {', '.join(Deliveries.__struct_fields__)} from treadle.deliver_records($1, $2)", topics, names
        )
        assert row is not None
        return Deliveries(*row)

    async def sweep(self, look_back_seconds: float | None) -> tuple[int, list[str]]:
        """Move the low-water marks forward, and bring back the lane rows below them: late ones and, with
        `look_back_seconds`, those that were hidden until so recently. Returns how many ids there were to move, at
        most, and the queues that may have messages to claim."""
        row = await self._database.fetchrow("select above, queues from treadle.sweep($1)", look_back_seconds)
        assert row is not None
        return row["above"], row["queues"] or []

    async def raise_marks(self) -> int:
        """Only move the low-water marks forward. Returns how many ids there were to move, at most."""
        return int(await self._database.fetchval("select treadle.raise_marks()"))

    async def mend_lanes(self, after: UUID | None) -> tuple[UUID | None, int, list[str]]:
        """Restore lane rows that are missing in the next stretch of messages; returns where to continue (None: from the
        start), how many messages were repaired, and their queues."""
        row = await self._database.fetchrow("select last, mended, queues from treadle.mend_lanes($1)", after)
        assert row is not None
        return row["last"], row["mended"], row["queues"] or []

    async def purge(
        self, *, retention_hours: float, dead_letter_hours: float, after: UUID | None
    ) -> tuple[UUID | None, int]:
        """Delete a chunk of messages past their retention; returns where to continue (None: the end is reached) and how
        many were deleted."""
        row = await self._database.fetchrow(
            "select last, purged from treadle.purge($1, $2, $3)",
            retention_hours,
            dead_letter_hours,
            after,
            timeout=DELETION_TIMEOUT_SECONDS,
        )
        assert row is not None
        return row["last"], row["purged"]

    async def purge_records(self) -> int:
        """Delete a chunk of the records past the retention of their topics; returns how many."""
        deleted: int = await self._database.fetchval("select treadle.purge_records()", timeout=DELETION_TIMEOUT_SECONDS)
        return deleted

    async def purge_stats(self) -> int:
        """Delete a chunk of the rows of the statistics that are older than they are kept; returns how many."""
        deleted: int = await self._database.fetchval("select treadle.purge_stats()")
        return deleted

    async def purge_audit(self, retention_hours: float) -> int:
        """Delete a chunk of the rows of the audit past their retention; returns how many."""
        deleted: int = await self._database.fetchval("select treadle.purge_audit($1)", retention_hours)
        return deleted

    async def purge_store_items(self) -> int:
        """Delete a chunk of the items of stores that have expired; returns how many."""
        deleted: int = await self._database.fetchval("select treadle.purge_store_items()")
        return deleted

    async def fold_stores(self) -> None:
        """Put the counts of stores together, and correct their totals."""
        await self._database.fetchval("select treadle.fold_stores()")

    async def delete_tenant_chunk(self) -> bool:
        """Delete the next rows of a tenant that is being deleted; returns whether to go on at once."""
        pass_over = await self._database.fetchval(
            "select pass_over from treadle.delete_tenant_chunk()", timeout=DELETION_TIMEOUT_SECONDS
        )
        return pass_over is False

    async def end_tenant_sessions(self) -> list[tuple[str, str, str]]:
        """End sessions of tenants' logins that hold too much; returns tenant, role and reason of each."""
        rows = await self._database.fetch("select tenant, role, reason from treadle.end_tenant_sessions()")
        return [tuple(row) for row in rows]

    async def tend_partitions(self, retention_hours: float) -> None:
        """Create the partitions of the coming days, drop the empty ones past retention."""
        await self._database.fetchval("select treadle.ensure_partitions()")
        await self._database.fetchval(
            "select treadle.drop_partitions(treadle.clock() - make_interval(secs => $1 * 3600))", retention_hours
        )

    async def vacuum_health(self) -> VacuumHealth:
        row = await self._database.fetchrow(
            f"select {', '.join(VacuumHealth.__struct_fields__)} from treadle.vacuum_health()"
        )
        assert row is not None
        return VacuumHealth(*row)

    async def pace_vacuum(self) -> None:
        """Let autovacuum pass over tables whose dead rows it cannot remove; sets the others back."""
        await self._database.fetchval("select treadle.pace_vacuum()")

    async def unclaimed_queues(self) -> dict[str, int]:
        """Queues from which no living worker claims, with the number of their queued messages."""
        rows = await self._database.fetch("select queue, queued from treadle.unclaimed_queues()")
        return {row["queue"]: row["queued"] for row in rows}

    async def notify_health(self) -> NotifyHealth:
        row = await self._database.fetchrow(
            f"select {', '.join(NotifyHealth.__struct_fields__)} from treadle.notify_health()"
        )
        assert row is not None
        return NotifyHealth(*row)
