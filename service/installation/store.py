"""The installation as a whole, in PostgreSQL: its versions, its load, its health and its invariants."""

from typing import Any

import msgspec

from service.db import schema
from service.db.pool import Database

VIOLATIONS_TIMEOUT_SECONDS = 3600.0

HEALTH = f"select {schema.RELEASE_FOUND} as release, has_queues, live_workers from treadle.health()"


class HealthProbe(msgspec.Struct, frozen=True):
    """`release` of the schema (see service.db.schema); `live_workers` sent a heartbeat in the last ten seconds."""

    release: str | None
    has_queues: bool
    live_workers: int


class Installation(msgspec.Struct, frozen=True):
    """Versions, workers and load; `functions` is the digest of the SQL files that were applied."""

    postgresql: str
    pgmq: str
    release: str
    functions: str
    workers: int
    queued: int
    processing: int


class Violation(msgspec.Struct, frozen=True):
    """An exception to an invariant (treadle.violations)."""

    rule: str
    subject: str
    detail: Any


class InstallationStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def health(self) -> HealthProbe:
        row = await self._database.fetchrow(HEALTH)
        assert row is not None
        return msgspec.convert(row, HealthProbe)

    async def installation(self) -> Installation:
        row = await self._database.fetchrow("select * from treadle.installation")
        assert row is not None
        return msgspec.convert(row, Installation)

    async def violations(self) -> list[Violation]:
        """The first thousand exceptions to the invariants. Reads everything, so it may take minutes."""
        rows = await self._database.fetch(
            "select rule, subject, detail from treadle.violations limit 1000",
            repeatable=False,
            timeout=VIOLATIONS_TIMEOUT_SECONDS,
        )
        return msgspec.convert(rows, list[Violation])
