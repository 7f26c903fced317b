"""Publishers of a run: they publish to a topic of two subscriptions, and repeat a call until it is answered.

A clerk handles each record exactly once and publishes its copy to a second topic; a filer handles it at least once.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import msgspec
import uuid_utils.compat as uuid

from faults.history import History
from faults.postgres import DATABASE_ERRORS, Cluster

RECORDS, COPIES = "faults.in", "faults.out"
SUBSCRIPTIONS = {"clerks": ("clerk", "exactly_once"), "filers": ("filer", "at_least_once")}
PUBLISHER_COUNT = 3
BATCH_RECORDS = 5
RECORD_KEYS = 20
PAUSE_SECONDS = 0.5  # between two calls of a publisher, and before a call is repeated
CALL_SECONDS = 10.0

PUBLISH = "select count(*) from treadle.publish_many($1, $2::jsonb, notify => true)"
UNHANDLED_RECORDS_SQL = """
    select exists (select from pgmq.q_treadle_inbox)
        or exists (select from treadle.subscription_overview where lag > 0 or open > 0)"""


def new_record(value: str, key: str | None) -> dict[str, str]:
    """A record with an id, so that a repeated call publishes it once."""
    return {"record_id": str(uuid.uuid7()), "value": value} | ({} if key is None else {"key": key})


async def publish(sql: "asyncpg.Connection[Any]", history: History, records: Sequence[Mapping[str, str]]) -> None:
    """Publish to the topic of the run, and note what was acknowledged. Raises DATABASE_ERRORS."""
    await sql.fetchval(PUBLISH, RECORDS, msgspec.json.encode(records).decode())
    history.published += [one["value"] for one in records]


class Publishers:
    def __init__(self, cluster: Cluster, history: History, rng: random.Random) -> None:
        self._cluster = cluster
        self._history = history
        self._rng = rng

    async def prepare(self) -> None:
        """Declare the topics and subscriptions."""
        sql = await self._cluster.primary.connect()
        for topic in (RECORDS, COPIES):
            await sql.execute("select treadle.create_topic($1, retention_hours => null)", topic)
        for name, (agent, delivery) in SUBSCRIPTIONS.items():
            await sql.execute(
                "select treadle.create_subscription($1, $2, $3, start => 'earliest', delivery => $4,"
                " max_in_flight => 40)",
                name,
                [RECORDS],
                agent,
                delivery,
            )
        await sql.close()

    async def run(self, seconds: float) -> None:
        """Publish for so many seconds; every call that was begun is repeated until it is answered."""
        await asyncio.gather(*(self._publish(n, time.monotonic() + seconds) for n in range(PUBLISHER_COUNT)))

    async def _publish(self, number: int, deadline: float) -> None:
        sql: asyncpg.Connection[Any] | None = None
        sent = 0
        while time.monotonic() < deadline:
            records = []
            for _ in range(BATCH_RECORDS):
                # The records of a key come from one publisher, so their numbers are their order.
                key = f"{number}-{self._rng.randrange(RECORD_KEYS)}" if self._rng.random() < 0.8 else None
                records.append(new_record(f"{number}:{sent:06}", key))
                sent += 1
            while True:
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        if sql is None or sql.is_closed():
                            sql = await self._cluster.primary.connect()
                        await publish(sql, self._history, records)
                    break
                except DATABASE_ERRORS:
                    if sql is not None:
                        sql.terminate()
                    sql = None
                    await asyncio.sleep(PAUSE_SECONDS)
            await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_SECONDS))
        if sql is not None:
            with contextlib.suppress(*DATABASE_ERRORS):
                await sql.close(timeout=5)
