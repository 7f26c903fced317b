"""The connections of an API process: a pool for each kind of call, so that slow calls of one kind delay no other."""

import asyncio
from typing import Any

from service.config import Settings
from service.db.availability import Availability
from service.db.fair import FairDatabase
from service.db.patient import PatientDatabase
from service.db.pool import Database

CALL_CONNECTIONS = 10
READ_CONNECTIONS = 5
READS_OF_TENANT = 4  # so that one is left to other tenants
LIST_CONNECTIONS = 4
LISTS_OF_TENANT = 3  # likewise
KEY_CONNECTIONS = 2
HEALTH_CONNECTIONS = 2
WORK_CONNECTIONS = 4
CHANGE_CONNECTIONS = 4
STREAM_CONNECTIONS = 3
MOST_CONNECTIONS = sum(
    (
        *(CALL_CONNECTIONS, READ_CONNECTIONS, LIST_CONNECTIONS, HEALTH_CONNECTIONS, WORK_CONNECTIONS),
        *(CHANGE_CONNECTIONS, STREAM_CONNECTIONS, KEY_CONNECTIONS),
    )
)
LIST_SECONDS = 5.0  # after which a list is answered with 503
HEALTH_SECONDS = 3.0
KEY_SECONDS = 5.0  # that the check of a key may take; its request is then answered with 503


class Pools:
    """Connections are opened when they are needed.

    `calls`: what writes messages, threads and records, and what open streams read. `changes`: what changes topics,
    subscriptions, webhooks, keys, schemas, tenants and queues, and may find it held. `reads`: single messages, and
    records. `lists`: threads, messages of a thread, queues, events. (One tenant takes at most READS_OF_TENANT and
    LISTS_OF_TENANT connections.) `streams`: where a stream begins. `keys`: checks of keys, which any request may need.
    `health`: the health check. The last four have a limit on each statement. `work`: what remote workers call.
    """

    def __init__(self, dsn: str, settings: Settings, availability: Availability) -> None:
        self._dsn = dsn
        self._pooler = settings.database_pooler == "transaction"
        self._availability = availability
        self.calls = self._pool("api", CALL_CONNECTIONS)
        self.reads = self._pool(
            "api reads", READ_CONNECTIONS, writes=False, kind=FairDatabase, of_tenant=READS_OF_TENANT
        )
        self.lists = self._pool(
            "api lists",
            LIST_CONNECTIONS,
            seconds=LIST_SECONDS,
            writes=False,
            kind=FairDatabase,
            of_tenant=LISTS_OF_TENANT,
        )
        self.health = self._pool("api health", HEALTH_CONNECTIONS, seconds=HEALTH_SECONDS, writes=False)
        self.streams = self._pool("api streams", STREAM_CONNECTIONS, seconds=LIST_SECONDS, writes=False)
        self.keys = self._pool("api keys", KEY_CONNECTIONS, seconds=KEY_SECONDS, writes=False)
        self.work = self._pool("api work", WORK_CONNECTIONS)
        self.changes = self._pool("api changes", CHANGE_CONNECTIONS, kind=PatientDatabase)

    @property
    def all(self) -> tuple[Database, ...]:
        return self.calls, self.reads, self.lists, self.health, self.work, self.changes, self.streams, self.keys

    async def close(self) -> None:
        await asyncio.gather(*(pool.close() for pool in self.all))

    def _pool(
        self,
        name: str,
        size: int,
        *,
        seconds: float | None = None,
        writes: bool = True,
        kind: type[Database] = Database,
        **options: Any,
    ) -> Database:
        limits: dict[str, Any] = {} if seconds is None else {"command_timeout": seconds, "statement_timeout": seconds}
        return kind(
            self._dsn,
            name=name,
            size=size,
            role="treadle_app",
            pooler=self._pooler,
            availability=self._availability,
            writes=writes,
            **limits,
            **options,
        )
