"""The audit in PostgreSQL."""

from datetime import datetime

from service.audit.model import Act
from service.cursors import Position
from service.db.pool import Database
from service.db.rows import from_row


class AuditStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, tenant: str | None, *, since: datetime | None, before: Position | None, limit: int
    ) -> tuple[list[Act], Position | None]:
        """The newest acts of a tenant (None: of all), and where the next page begins (None: this is the last one)."""
        rows = await self._database.fetch(
            "select id, at, tenant, principal, action, target, details::text from treadle.audit_page("
            "of_tenant => $1, since => $2, before_at => $3, before_id => $4, quantity => $5)",
            tenant,
            since,
            *(before or (None, None)),
            limit + 1,
        )
        page = rows[:limit]
        following = Position(page[-1]["at"], page[-1]["id"]) if len(rows) > limit else None
        return [from_row(Act, row, ("details",)) for row in page], following
