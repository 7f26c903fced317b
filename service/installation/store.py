"""The installation as a whole, in PostgreSQL: its versions, its load, its health and its invariants."""

import msgspec

from service.db import schema
from service.db.pool import Database, missing_lane
from service.errors import SchemaError
from service.installation.model import MEASURED_SUBSCRIPTIONS, Figures, HealthProbe, Installation, Violation

VIOLATIONS_TIMEOUT_SECONDS = 3600.0

HEALTH = f"""
    select {schema.RELEASE_FOUND} as release, has_queues, live_workers, hints_sent, usage as notify_usage,
        n.holder as notify_holder,
        (select coalesce(jsonb_agg(to_jsonb(u)), '[]') from treadle.unclaimed_queues() u) as unclaimed,
        (select coalesce(jsonb_agg(to_jsonb(a)), '[]') from treadle.missing_agents() a) as missing_agents,
        v.snapshot_seconds, v.holder as snapshot_holder, v.dead_rows, v.table_name,
        treadle.records_waiting_seconds() as records_waiting_seconds
    from treadle.health(), treadle.notify_health() n, treadle.vacuum_health() v"""


# All of it reads counters, the heads of the lanes and PostgreSQL's statistics, and no history.
FIGURES = """
    select
        (
            select coalesce(jsonb_agg(jsonb_build_object(
                'queue', q.queue, 'paused', q.paused, 'queued', q.queued, 'ready', q.ready, 'processing', q.processing,
                'oldest_seconds', q.oldest_seconds, 'workers', q.workers)), '[]')
            from treadle.queue_list(tenant => null) q
        ) as queues,
        h.live_workers, coalesce(v.dead_rows, 0) as dead_rows, coalesce(v.snapshot_seconds, 0) as snapshot_seconds,
        n.usage as notify_usage, coalesce(r.waiting_seconds, 0) as records_waiting_seconds,
        r.undelivered as records_undelivered,
        (
            select coalesce(jsonb_agg(jsonb_build_object('subscription', s.subscription, 'lag', s.lag)), '[]')
            from (
                select o.subscription, o.lag
                from treadle.subscription_overview o
                where o.tenant = 'default'
                order by o.subscription
                limit $1
            ) s
        ) as subscriptions
    from treadle.health() h, treadle.vacuum_health() v, treadle.notify_health() n, treadle.router_health() r"""


class InstallationStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def health(self) -> HealthProbe:
        row = await self._database.fetchrow(HEALTH)
        assert row is not None
        return msgspec.convert(row, HealthProbe)

    async def figures(self) -> Figures:
        row = await self._database.fetchrow(FIGURES, MEASURED_SUBSCRIPTIONS)
        assert row is not None
        return msgspec.convert(row, Figures)

    async def installation(self) -> Installation:
        row = await self._database.fetchrow("select * from treadle.installation")
        assert row is not None
        return msgspec.convert(row, Installation)

    async def require_lanes(self) -> None:
        """Raises SchemaError, naming the first lane that is missing."""
        row = await self._database.fetchrow("select queue, lane from treadle.missing_lanes() limit 1")
        if row is not None:
            raise SchemaError(missing_lane(row["queue"], row["lane"]))

    async def violations(self) -> list[Violation]:
        """The first thousand exceptions to the invariants. Reads everything, so it may take minutes."""
        rows = await self._database.fetch(
            "select rule, subject, detail from treadle.violations limit 1000",
            repeatable=False,
            timeout=VIOLATIONS_TIMEOUT_SECONDS,
        )
        return msgspec.convert(rows, list[Violation])
