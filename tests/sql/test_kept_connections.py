"""Connections between two calls: the next call has one at once, and none is kept from a call that waits for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.db import kept_connections, pool
from service.db.pool import Connection, Database, connect
from service.errors import Unavailable
from tests.support.databases import patient
from tests.support.waiting import LIMIT_SECONDS, let_the_loop_read, until, wait_for

PID = "select pg_backend_pid()"
TAKE_LOCK_SQL = "select pg_advisory_lock(7)"
WAITERS = """
    select count(*) from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and not l.granted and d.datname = current_database()"""


@pytest.fixture
async def pair(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    monkeypatch.setattr(kept_connections, "KEPT_SECONDS", 2 * LIMIT_SECONDS)
    monkeypatch.setattr(pool, "CLOSE_SECONDS", LIMIT_SECONDS)
    database = Database(patient(dsn), name="test", size=2)
    yield database
    await database.close()


@contextlib.asynccontextmanager
async def call_in_progress(pair: Database, sql: Connection) -> AsyncIterator["asyncio.Task[str]"]:
    """A call that waits for a lock until the end of the block."""
    async with sql.transaction():
        await sql.execute("select pg_advisory_xact_lock(7)")
        call = asyncio.create_task(pair.fetchval("select pg_advisory_xact_lock(7)::text"))
        await until(lambda: sql.fetchval(WAITERS), lambda count: count == 1)
        yield call


async def test_the_next_call_has_the_connection_at_once(pair: Database) -> None:
    pids = {await pair.fetchval(PID) for _ in range(3)}
    assert len(pids) == 1
    assert pair.connection_counts == (0, 1, 2)


async def test_more_calls_than_connections_are_all_served(pair: Database) -> None:
    for _ in range(3):  # with connections that the pool has, and with those that are kept
        pids = await asyncio.gather(*(pair.fetchval(PID) for _ in range(20)))
        assert len(set(pids)) <= 2
    assert sum(pair.connection_counts[:2]) <= 2


async def test_a_call_that_waits_has_the_first_free_connection(pair: Database, sql: Connection) -> None:
    await pair.fetchval(PID)  # one is kept
    async with sql.transaction():
        await sql.execute("select pg_advisory_xact_lock(7)")
        holding = [asyncio.create_task(pair.fetchval(TAKE_LOCK_SQL)) for _ in range(2)]
        await until(lambda: sql.fetchval(WAITERS), lambda count: count == 2)
        assert pair.connection_counts == (2, 0, 2)
        waiting = asyncio.create_task(pair.fetchval("select pg_advisory_unlock_all()::text"))
        await let_the_loop_read()
        assert not waiting.done()
    await asyncio.wait({waiting, *holding}, return_when=asyncio.FIRST_COMPLETED)
    assert await waiting == ""  # on the connection of the call that came first: the other one goes on
    await asyncio.gather(*holding)
    await asyncio.gather(*(pair.fetchval("select pg_advisory_unlock_all()::text") for _ in range(2)))


async def test_a_kept_connection_that_broke_is_not_lent(pair: Database, sql: Connection) -> None:
    pid = await pair.fetchval(PID)
    await sql.execute("select pg_terminate_backend($1)", pid)
    await until(lambda: pair.connection_counts, lambda counts: counts == (0, 0, 2))
    assert await pair.fetchval(PID, repeatable=False) != pid
    assert pair.connection_counts == (0, 1, 2)


@pytest.mark.parametrize(
    "seconds",
    [
        0.0,  # it has been taken so long when its call ends
        0.05,  # nothing uses it for so long
    ],
)
async def test_the_pool_has_a_connection_back_in_time(
    pair: Database, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """It closes connections that are old or that nothing uses."""
    monkeypatch.setattr(kept_connections, "KEPT_SECONDS", seconds)
    released = asyncio.Event()
    release = kept_connections.KeptConnections._release

    async def told(*args: Any) -> None:
        await release(*args)
        released.set()

    monkeypatch.setattr(kept_connections.KeptConnections, "_release", told)
    pid = await pair.fetchval(PID)
    await wait_for(released)
    assert pair.connection_counts == (0, 1, 2)
    assert await pair.fetchval(PID) == pid


async def test_one_call_after_the_other_needs_one_connection(pair: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the pool has it back in between."""
    monkeypatch.setattr(kept_connections, "KEPT_SECONDS", 0.0)
    for _ in range(5):
        await pair.fetchval(PID)
    assert sum(pair.connection_counts[:2]) == 1


async def test_a_cancelled_call_leaves_its_connection_usable(pair: Database, sql: Connection) -> None:
    await pair.fetchval(PID)
    async with call_in_progress(pair, sql) as call:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.gather(*(pair.fetchval("select 1") for _ in range(3))) == [1, 1, 1]


async def test_a_closed_database_waits_for_its_calls_and_keeps_nothing(pair: Database, sql: Connection) -> None:
    await pair.fetchval(PID)
    async with call_in_progress(pair, sql) as call:
        closing = asyncio.create_task(pair.close())
        await let_the_loop_read()
    assert await call == ""
    await closing
    assert pair.connection_counts == (0, 0, 2)


async def test_a_closed_database_opens_no_connection_again(pair: Database) -> None:
    await pair.fetchval(PID)
    await pair.close()
    with pytest.raises(Unavailable, match="stopping"):
        await pair.fetchval(PID)


async def test_a_call_that_finds_all_connections_in_use_says_so(
    pair: Database, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with call_in_progress(pair, sql) as call:
        other = asyncio.create_task(pair.fetchval("select pg_advisory_xact_lock(7)::text"))
        await until(lambda: sql.fetchval(WAITERS), lambda count: count == 2)
        monkeypatch.setattr(pool, "COMMAND_TIMEOUT_SECONDS", 0.01)
        with pytest.raises(Unavailable, match="All connections of this kind are in use"):
            await pair.fetchval(PID)
    assert [await call, await other] == ["", ""]


async def test_no_connection_is_lent_that_expired(
    pair: Database, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover all lead to the former server."""
    opened: list[Connection] = []

    async def counted(*args: Any, **options: Any) -> Connection:
        opened.append(await connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(pool, "connect", counted)
    await asyncio.gather(pair.fetchval(PID), pair.fetchval(PID))
    former = list(opened)
    async with call_in_progress(pair, sql) as call:
        assert pair._connections is not None
        await pair._connections.expire()
    assert await call == ""
    used: list[object] = []
    for connection in former:
        connection.add_query_logger(used.append)
    await asyncio.gather(pair.fetchval(PID), pair.fetchval(PID))
    await let_the_loop_read()  # asyncpg logs in a callback
    assert not used
    assert len(opened) > len(former)
