"""Calls of the functions of topics, as publishers, operators and routers make them."""

import json
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from service.db.pool import Connection
from service.errors import BY_SQLSTATE
from service.leases.model import Claim
from tests.support.sql_client import SqlClient


class Topics:
    """Topics and subscriptions on the connection of a client."""

    def __init__(self, client: SqlClient) -> None:
        self.client = client
        self.sql: Connection = client.sql

    async def create(self, *topics: str, **arguments: Any) -> None:
        named = "".join(f", {name} => ${n}" for n, name in enumerate(arguments, 2))
        for topic in topics:
            await self.sql.fetchval(f"select treadle.create_topic($1{named})", topic, *arguments.values())

    async def subscribe(self, name: str = "s", *topics: str, agent: str = "echo", **arguments: Any) -> str:
        """`start` is `earliest` where it is not given. Returns what the declaration did."""
        arguments = {"start": "earliest", **arguments}
        named = "".join(f", {name} => ${n}" for n, name in enumerate(arguments, 4))
        return str(
            await self.sql.fetchval(
                f"select treadle.create_subscription($1, $2, $3{named})",
                name,
                list(topics) or ["t"],
                agent,
                *arguments.values(),
            )
        )

    async def row(self, query: str, *arguments: Any) -> asyncpg.Record:
        """The one row of a query."""
        [row] = await self.sql.fetch(query, *arguments)
        return row

    async def publish(self, topic: str, *records: Any, **arguments: Any) -> list[asyncpg.Record]:
        """Each record is a value, or a dict with `value` and more."""
        named = "".join(f", {name} => ${n}" for n, name in enumerate(arguments, 3))
        return await self.sql.fetch(
            f"select * from treadle.publish_many($1, $2{named}) order by n",
            topic,
            json.dumps([r if isinstance(r, dict) and "value" in r else {"value": r} for r in records], default=str),
            *arguments.values(),
        )

    async def route(self, *, late: bool = False) -> int:
        """Sequence and deliver until nothing is left that can be delivered; returns how many records were passed."""
        while await self.sql.fetchval("select more from treadle.sequence_records(late => $1)", late):
            pass
        passed: int = 0
        while True:
            row = await self.row("select * from treadle.deliver_records()")
            passed += row["delivered"]
            if not row["again"] or not row["delivered"]:  # other transactions hold the rest
                return passed

    async def read(self, topic: str = "t", start: int = 0, **arguments: Any) -> list[asyncpg.Record]:
        named = "".join(f", {name} => ${n}" for n, name in enumerate(arguments, 3))
        return await self.sql.fetch(
            f"select * from treadle.read_records($1, $2{named})", topic, start, *arguments.values()
        )

    async def values(self, topic: str = "t") -> list[Any]:
        """The values of a topic; its offsets are dense from 0."""
        rows = await self.read(topic, quantity=10_000)
        assert [row["offset"] for row in rows] == list(range(len(rows)))
        return [row["value"] for row in rows]

    async def claims(self, quantity: int = 1000) -> list[Claim]:
        return await self.client.claim(quantity)

    async def handle(self, quantity: int = 1000, **arguments: Any) -> list[Any]:
        """Claim and end what may run now; returns the bodies, as the claims gave them."""
        claims = await self.claims(quantity)
        if claims:
            await self.client.finish(*claims, **arguments)
        return [json.loads(claim.body) for claim in claims]

    async def drain(self, **arguments: Any) -> list[Any]:
        """Route and handle until nothing is left; returns the bodies in the order of the claims."""
        bodies: list[Any] = []
        while True:
            passed = await self.route()
            handled = await self.handle(**arguments)
            bodies += handled
            if not passed and not handled:
                return bodies

    async def overview(self, name: str = "s") -> dict[str, Any]:
        return dict(await self.row("select * from treadle.subscription_overview where subscription = $1", name))


async def refusal(call: Any) -> tuple[str, str]:
    """SQLSTATE and message with which PostgreSQL refuses a call."""
    with pytest.raises(asyncpg.PostgresError) as refused:
        await call
    assert refused.value.sqlstate in BY_SQLSTATE
    return str(refused.value.sqlstate), str(refused.value)


def records_of(claims: Sequence[Claim]) -> list[dict[str, Any]]:
    return [json.loads(claim.metadata)["record"] for claim in claims]
