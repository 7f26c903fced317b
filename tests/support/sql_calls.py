"""Calls of the functions of sql/ as clients and workers make them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from service.db.pool import Connection
from service.leases.model import Claim
from tests.support.waiting import LIMIT_SECONDS

Answer = TypeVar("Answer")

ECHO: dict[str, Any] = {
    "agent": "echo",
    "queue": "default",
    "timeout_seconds": 60,
    "max_attempts": 3,
}


class SqlSession:
    """A connection to the test's database."""

    def __init__(self, sql: Connection) -> None:
        self.sql = sql

    async def register(self, *agents: dict[str, Any]) -> None:
        rows = [{**ECHO, **agent} for agent in agents] or [ECHO]
        await self.sql.execute("select treadle.register_agents($1)", json.dumps(rows))

    async def shift_clock(self, seconds: float) -> None:
        """Set the clock of this connection to so many seconds after its true time."""
        await self.sql.execute("select set_config('treadle.clock_shift', $1, false)", f"{seconds} seconds")


async def persist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Make a call again, as its callers do, while its patience for a lock ends: by then it has written nothing. A call
    of a worker waits 100 ms for each lock, one of a client two seconds; on a busy machine, a commit takes as long."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            with contextlib.suppress(asyncpg.LockNotAvailableError):
                return await call()


class ClientCalls(SqlSession):
    """The calls of clients."""

    async def submit(self, message: Any = "hello", **fields: Any) -> UUID:
        [row] = await self.submit_many({"message": message, **fields})
        return UUID(str(row["message_id"]))

    async def submit_many(self, *messages: dict[str, Any], **arguments: Any) -> list[asyncpg.Record]:
        """`arguments` are submit_many's own, by name."""
        named = "".join(f", {name} => ${n}" for n, name in enumerate(arguments, 2))
        return await self.sql.fetch(
            f"select * from treadle.submit_many($1{named}) order by n",
            json.dumps([{"message": "hello", **message} for message in messages]),
            *arguments.values(),
        )

    async def cancel(self, message_id: UUID) -> str:
        return str(await self.sql.fetchval("select treadle.cancel($1)", message_id))

    async def redrive(self, message_id: UUID) -> str:
        return str(await self.sql.fetchval("select treadle.redrive($1)", message_id))


class WorkerCalls(SqlSession):
    """The calls of workers and of janitors."""

    async def claim(
        self,
        quantity: int = 1,
        *,
        worker: str = "w",
        queues: Sequence[str] = ("default",),
        lease_seconds: float = 60,
        first_lane: str = "high",
        room_bytes: int | None = None,
    ) -> list[Claim]:
        rows = await self.sql.fetch(
            "select * from treadle.claim($1, $2, $3, $4, $5, room_bytes => $6)",
            worker,
            queues,
            quantity,
            lease_seconds,
            first_lane,
            room_bytes,
        )
        return msgspec.convert(rows, list[Claim])

    async def claim_one(self, **arguments: Any) -> Claim:
        """Claim all messages; there must be exactly one."""
        claims = await self.claim(100, **arguments)
        assert len(claims) == 1, claims
        return claims[0]

    async def append(
        self,
        *items: tuple[Claim, int, Sequence[Any]],
        patient: bool = True,
    ) -> list[str]:
        """Append (claim, first_seq, chunks) for each item; returns their statuses."""
        rows = await self.sql.fetch(
            "select * from treadle.append($1, $2, $3, $4, $5, $6, $7)",
            [claim.message_id for claim, _, _ in items],
            [claim.lease for claim, _, _ in items],
            [first_seq for _, first_seq, _ in items],
            *_events([chunks for _, _, chunks in items]),
            patient,
        )
        assert [row["message_id"] for row in rows] == [claim.message_id for claim, _, _ in items]
        return [row["status"] for row in rows]

    async def finish(
        self,
        *claims: Claim,
        outcome: str = "completed",
        result: Any = "answer",
        error: str | None = None,
        delay: float | None = None,
        first_seq: int | None = None,
        chunks: Sequence[Any] = (),
        patient: bool = True,
        max_losses: int = 3,
        usage: Any = MappingProxyType({"tokens": 7}),
    ) -> list[str]:
        """End all attempts in the same way; returns their statuses. `first_seq`: by default the seq after `started`."""
        failed = outcome != "completed"
        rows = await self.sql.fetch(
            "select * from treadle.finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            [claim.message_id for claim in claims],
            [claim.lease for claim in claims],
            [outcome for _ in claims],
            [None if failed else json.dumps(result) for _ in claims],
            [(error or "It broke.") if failed else None for _ in claims],
            ["Traceback ..." if failed else None for _ in claims],
            [
                delay if delay is not None or outcome not in ("error", "deferred", "overloaded") else 10.0
                for _ in claims
            ],
            [None if usage is None else json.dumps(dict(usage)) for _ in claims],
            [claim.last_seq + 1 if first_seq is None else first_seq for claim in claims],
            *_events([chunks for _ in claims]),
            patient,
            max_losses,
        )
        assert [row["message_id"] for row in rows] == [claim.message_id for claim in claims]
        return [row["status"] for row in rows]

    async def heartbeat(
        self,
        worker: str = "w",
        *claims: Claim,
        interval: float = 2,
        lease_seconds: float = 60,
        grace: float | None = 5,
        server_started: Any = None,
    ) -> dict[UUID, str]:
        """A heartbeat that names these claims; returns the verdicts."""
        rows = await self.sql.fetch(
            "select * from treadle.heartbeat($1, 'host', 1, '{default}', 10, treadle.clock(), $2, $3, $4, $5, $6, $7)",
            worker,
            server_started,
            [claim.message_id for claim in claims],
            [claim.lease for claim in claims],
            interval,
            lease_seconds,
            grace,
        )
        return {row["message_id"]: row["verdict"] for row in rows}

    async def reap(
        self,
        janitor: str = "janitor",
        *,
        interval: float = 2,
        worker_timeout: float = 10,
        max_losses: int = 3,
        awake: bool = True,
    ) -> dict[UUID, str | None]:
        """Returns the messages taken back, with their workers.

        `awake`: let a janitor without heartbeats appear to have sent them for nine seconds. That is long enough to
        trust a free lock, but too short to trust a silence.
        """
        if awake:
            await self._wake(janitor)
        rows = await self.sql.fetch(
            "select * from treadle.reap($1, $2, $3, $4)", janitor, interval, worker_timeout, max_losses
        )
        return {row["message_id"]: row["worker"] for row in rows}

    async def _wake(self, janitor: str) -> None:
        await self.sql.execute(
            "insert into treadle.workers as w (worker_id, host, pid, queues, concurrency, started_at, heartbeat_at,"
            " reported_at, beating_since) values ($1, 'host', 0, '{}', 0, treadle.clock(), treadle.clock(),"
            " treadle.clock(), treadle.clock() - interval '9 seconds') on conflict (worker_id) do update"
            " set heartbeat_at = excluded.heartbeat_at, beating_since = excluded.beating_since where w.pid = 0",
            janitor,
        )

    async def run(self, quantity: int = 100, **finish: Any) -> list[Claim]:
        """Claim all messages and finish them."""
        claims = await self.claim(quantity)
        for claim in claims:
            await self.finish(claim, **finish)
        return claims


async def be_patient(sql: Connection, function: str) -> None:
    """Let a function of sql/ wait for a lock as long as it takes."""
    await sql.execute(f"alter function treadle.{function} set lock_timeout = 0")


def _events(lists: Sequence[Sequence[Any]]) -> tuple[list[int], list[str], list[str]]:
    return (
        [item for item, chunks in enumerate(lists, 1) for _ in chunks],
        ["chunk" for chunks in lists for _ in chunks],
        [json.dumps({"chunk": chunk}) for chunks in lists for chunk in chunks],
    )
