"""The calls whose time must not depend on the amount of data: calls of workers, clients and dashboards, each with the
service's own statement."""

import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Collection
from typing import Any
from uuid import UUID

import asyncpg
import uuid_utils.compat as uuid

from bench import lists
from bench.sample import BODY
from service.access.principal import COMMAND_LINE
from service.db.pool import Database
from service.events.model import Cursor
from service.events.store import EventStore
from service.leases.model import Append, Claim, EventToAppend, Finish, Outcome
from service.leases.store import LeaseStore
from service.messages.store import MessageStore

BATCH_MESSAGES = 100
WORKER_ID = "bench"
LEASE_SECONDS = 3600.0
CHUNK = EventToAppend("chunk", '{"type": "content", "chunk": "a few words", "index": 0}')

BUFFERS = """
    select coalesce(sum(s.shared_blks_hit + s.shared_blks_read), 0)::bigint from pg_stat_statements s
    join pg_database d on d.oid = s.dbid
    where d.datname = current_database() and s.toplevel and s.userid <> 'bench'::regrole"""


class Round:
    """The life of 101 messages, each step timed. Each turn leaves the queue one message longer."""

    def __init__(
        self,
        database: Database,
        sql: "asyncpg.Connection[asyncpg.Record]",
        only: Collection[str] | None = None,
    ) -> None:
        """`only`: of the lists of bench.lists; None: all of them."""
        self._database = database
        self._sql = sql
        silent: Any = lists.Silent()  # of a notifier it only hints
        self._messages = MessageStore(database, silent, max_queue_size=100_000_000)
        calls = lists.calls(database, self._messages, self._find_newest)
        self.lists = {name: call for name, call in calls.items() if only is None or name in only}
        self._leases = LeaseStore(database)
        self._events = EventStore(database)
        self.taken: dict[str, list[float]] = defaultdict(list)  # milliseconds
        self.touched: dict[str, list[float]] = defaultdict(list)  # buffers
        self._counting = False
        self._newest: UUID | None = None

    async def turn(self, *, counting: bool = False) -> None:
        """Run all steps once. `counting`: count buffers instead of time."""
        self._counting = counting
        await self._step("submit(1)", self._submit(1))
        await self._step("submit(100)", self._submit(BATCH_MESSAGES))
        await self._step("queue_position", self._position(self._find_newest()))
        await self._step("status", self._messages.status(COMMAND_LINE, self._find_newest()))
        for name, call in self.lists.items():
            await self._step(name, call())
        claims = await self._step("claim(100)", self._claim(BATCH_MESSAGES))
        await self._step("append(100)", self._append(claims))
        await self._step("read(100)", self._read(claims))
        await self._step("finish(100)", self._finish(claims))

    def forget(self) -> None:
        self.taken.clear()
        self.touched.clear()

    async def chores(self) -> None:
        """The chores that a janitor does every second or two."""
        await self._database.fetchval("select treadle.fold_counters()")
        await self._database.fetchval("select treadle.sweep()")
        await self._database.fetchval("select admitted from treadle.admit_due()")

    async def _step(self, name: str, call: Awaitable[Any]) -> Any:
        if self._counting:
            before = await self._sql.fetchval(BUFFERS)
            answer = await call
            self.touched[name].append(await self._sql.fetchval(BUFFERS) - before)
            return answer
        began = time.perf_counter()
        answer = await call
        self.taken[name].append((time.perf_counter() - began) * 1000)
        return answer

    async def _submit(self, quantity: int) -> None:
        ids = [uuid.uuid7() for _ in range(quantity)]
        messages = [{"message_id": str(message_id), "message": BODY, "agent": "noop"} for message_id in ids]
        await self._database.fetch(
            "select * from treadle.submit_many($1::jsonb, $2, false, $3, $4, $5)",
            json.dumps(messages),
            "default",
            100_000_000,
            False,
            "200ms",
        )
        self._newest = ids[-1]

    def _find_newest(self) -> UUID:
        assert self._newest is not None
        return self._newest

    async def _position(self, message_id: UUID) -> None:
        await self._database.fetchval("select treadle.queue_position($1)", message_id)

    async def _claim(self, quantity: int) -> list[Claim]:
        claimed = await self._leases.claim(
            worker=WORKER_ID, queues=["default"], quantity=quantity, lease_seconds=LEASE_SECONDS, first_lane="high"
        )
        return claimed.claims

    async def _append(self, claims: list[Claim]) -> None:
        appends = [Append(c.message_id, c.lease, c.last_seq + 1, [CHUNK], c.thread) for c in claims]
        answers = await self._leases.append(appends, False)
        assert all(answer.status == "ok" for answer in answers)

    async def _read(self, claims: list[Claim]) -> None:
        """The events that `_append` has written, each for a reader."""
        pages = await self._events.read([Cursor(str(c.message_id), c.last_seq) for c in claims])
        assert all(page is not None and len(page.entries) == 1 for page in pages)

    async def _finish(self, claims: list[Claim]) -> None:
        outcome = Outcome("completed", result='"ok"')
        finishes = [Finish(c.message_id, c.lease, outcome, None, c.last_seq + 2, (), c.thread) for c in claims]
        answers = await self._leases.finish(finishes, False, 3)
        assert all(answer.status == "completed" for answer in answers)
