"""Subscriptions in PostgreSQL: declare, pause, seek, delete."""

from collections.abc import Sequence

import msgspec
from asyncpg import Record

from service.access.principal import Principal
from service.db.pages import read_page
from service.db.pool import Database
from service.db.rows import from_row
from service.errors import NotFound
from service.subscriptions.model import NewPosition, NewSubscription, Position, Subscription
from service.topics.model import Declared
from service.topics.store import require_all

SUBSCRIPTIONS = """
    select s.subscription, s.topics, s.agent, s.delivery, s.max_in_flight, s.filter::text, s.dead_letter, s.paused,
        s.created_at, s.lag, s.open, s.completed, s.failed, s.cancelled, s.dropped, s.filtered, s.expired,
        s.positions::text
    from treadle.subscription_overview s
    where s.tenant = $1 and $2::jsonb is null"""
SUBSCRIPTION = f"{SUBSCRIPTIONS} and s.subscription = $3"
SUBSCRIPTION_PAGE = f"{SUBSCRIPTIONS} and s.subscription > $3 order by s.subscription limit $4"


class SubscriptionStore:
    """`reads` is a pool of its own, so that slow lists do not delay other calls; by default all share one pool."""

    def __init__(self, database: Database, *, reads: Database | None = None) -> None:
        self._database = database
        self._reads = reads or database

    async def declare(self, principal: Principal, name: str, declared: NewSubscription) -> Declared:
        """Create the subscription, or change it; raises Forbidden, Unprocessable."""
        require_all(principal)
        done: Declared = await self._database.fetchval(
            "select treadle.create_subscription($1, $2, $3, start => $4, delivery => $5, max_in_flight => $6,"
            " filter => $7::jsonb, dead_letter => $8, tenant => $9, actor => $10)",
            name,
            [declared.topics] if isinstance(declared.topics, str) else declared.topics,
            declared.agent,
            str(declared.start),
            declared.delivery,
            declared.max_in_flight,
            None if declared.filter is None else msgspec.json.encode(declared.filter).decode(),
            declared.dead_letter,
            principal.tenant,
            principal.name,
        )
        return done

    async def follow(self, agent: str, topics: Sequence[str]) -> Declared:
        """Let the subscription of the agent's name read these topics; raises Busy, Unprocessable."""
        done: Declared = await self._database.fetchval("select treadle.follow_topics($1, $2)", agent, list(topics))
        return done

    async def pause(self, principal: Principal, name: str, paused: bool) -> Subscription:
        """Stop or resume deliveries; raises Forbidden, NotFound."""
        require_all(principal)
        await self._database.fetchval(
            "select treadle.pause_subscription($1, $2, $3, actor => $4)",
            name,
            paused,
            principal.tenant,
            principal.name,
        )
        return await self.get(principal, name)

    async def seek(self, principal: Principal, name: str, position: NewPosition) -> Subscription:
        """Move it; what lies behind the new place is delivered again. Raises Forbidden, NotFound, Unprocessable."""
        require_all(principal)
        await self._database.fetchval(
            "select treadle.seek_subscription($1, $2, topic => $3, tenant => $4, actor => $5)",
            name,
            str(position.start),
            position.topic,
            principal.tenant,
            principal.name,
        )
        return await self.get(principal, name)

    async def delete(self, principal: Principal, name: str) -> None:
        """Its open messages go on; raises Forbidden, NotFound."""
        require_all(principal)
        await self._database.fetchval(
            "select treadle.delete_subscription($1, $2, actor => $3)", name, principal.tenant, principal.name
        )

    async def page(self, principal: Principal, after: str | None, limit: int) -> tuple[list[Subscription], str | None]:
        """Those behind the name `after`, by name, and the name of the last one where others follow."""
        rows, following = await read_page(
            lambda name, quantity: self._reads.fetch(
                SUBSCRIPTION_PAGE, principal.tenant, principal.reach, name or "", quantity
            ),
            lambda row: str(row["subscription"]),
            after=after,
            limit=limit,
        )
        return [_subscription(row) for row in rows], following

    async def get(self, principal: Principal, name: str) -> Subscription:
        """Raises NotFound."""
        row = await self._reads.fetchrow(SUBSCRIPTION, principal.tenant, principal.reach, name)
        if row is None:
            raise NotFound(f"There is no subscription {name!r}.")
        return _subscription(row)


def _subscription(row: Record) -> Subscription:
    positions = msgspec.json.decode(row["positions"], type=list[Position])
    return from_row(Subscription, row, ("filter",), positions=positions)
