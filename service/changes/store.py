"""What has changed, in PostgreSQL."""

from collections.abc import Collection
from typing import NamedTuple

from service.db.fair import tenant_of_request
from service.db.pool import Database


class Looked(NamedTuple):
    """Tenants of which messages have changed their state, or topics have grown; and where the next look begins."""

    of_messages: frozenset[str]
    of_topics: frozenset[str]
    next_after: int


class ChangeStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def look(self, after: int | None, topics: Collection[int] | None) -> Looked:
        """Since the look that `after` comes from (None: the first one). `topics`: keys (topics.id); None: all."""
        tenant_of_request.set("")
        row = await self._database.fetchrow(
            "select of_messages, of_topics, next_after from treadle.changed_tenants($1, $2)",
            after,
            None if topics is None else list(topics),
        )
        assert row is not None
        return Looked(frozenset(row["of_messages"]), frozenset(row["of_topics"]), row["next_after"])
