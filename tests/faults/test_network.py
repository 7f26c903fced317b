"""A bad network between a process and PostgreSQL: hosts that are silent or refuse, connections that died in silence."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import asyncpg
import pytest

from faults.proxy import Proxy
from service import database_address
from service.agents.builtin.echo import echo
from service.config import Settings
from service.db import kept_connections, migrate, schema
from service.db.listener import Listener
from service.db.pool import Connection, Database, connect
from service.errors import NotConnected, Unavailable
from tests.support.fixture_types import StartWorker
from tests.support.messages import settled, submit
from tests.support.proxies import dsn_through
from tests.support.waiting import LIMIT_SECONDS, until, wait_for
from treadle import Context, agent

WAITERS = """
    select count(*) from pg_locks l join pg_database d on d.oid = l.database
    where l.locktype = 'advisory' and not l.granted and d.datname = current_database()"""


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://me:pw@one/db", [("one", None)]),
        ("postgresql://me@one:1,two:2/db?sslmode=disable", [("one", 1), ("two", 2)]),
        ("postgresql://me@one,two:2/db", [("one", None), ("two", 2)]),
        ("postgresql://me:p%40w@[::1]:1,[fe80::2]/db", [("::1", 1), ("fe80::2", None)]),
        ("postgresql://me@/db?host=/run/pg", [("/run/pg", None)]),
        ("postgresql:///db?host=one,two&port=1,2", [("one", 1), ("two", 2)]),
        ("postgresql:///db?host=one,two&port=5", [("one", 5), ("two", 5)]),
        ("postgresql:///db", [("", None)]),
    ],
)
def test_the_hosts_of_an_address(dsn: str, expected: list[tuple[str, int | None]]) -> None:
    assert list(database_address.parse(dsn).hosts) == expected


@pytest.fixture
async def proxies(dsn: str) -> AsyncIterator[list[Proxy]]:
    """Two proxies in front of the same server."""
    port = int(dsn.rpartition(":")[2].partition("/")[0])
    proxies = [Proxy(port, postgres=True), Proxy(port, postgres=True)]
    for proxy in proxies:
        await proxy.start()
    yield proxies
    for proxy in proxies:
        await proxy.close()


async def test_a_connection_that_the_proxy_cuts_while_it_is_made_ends(proxies: list[Proxy]) -> None:
    proxy = proxies[0]
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.setblocking(False)
        while not proxy._links:
            await asyncio.sleep(0)
        proxy.refuse()
        async with asyncio.timeout(LIMIT_SECONDS):
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


async def test_connect_goes_on_to_the_next_host_if_one_closes_the_connection(dsn: str, proxies: list[Proxy]) -> None:
    """A load balancer without a server accepts the connection and closes it."""
    proxies[0].target = 1
    connection = await connect(dsn_through(dsn, *proxies), name="test")
    assert await connection.fetchval("select 1") == 1
    await connection.close()


async def test_connect_goes_on_to_the_next_host_if_one_is_silent(dsn: str, proxies: list[Proxy]) -> None:
    proxies[0].freeze()
    connection = await connect(dsn_through(dsn, *proxies), name="test")
    assert await connection.fetchval("select 1") == 1
    await connection.close()


async def test_connect_raises_unavailable_if_no_host_answers(dsn: str, proxies: list[Proxy]) -> None:
    proxies[0].target = proxies[1].target = 1
    with pytest.raises(Unavailable, match="PostgreSQL cannot be reached"):
        await connect(dsn_through(dsn, *proxies), name="test")


async def test_a_dead_connection_is_replaced(dsn: str, proxies: list[Proxy]) -> None:
    """Its command timeout ends it. A cancel request would meet the same silence, so none is sent."""
    database = Database(dsn_through(dsn, proxies[0]), name="test", size=1, command_timeout=LIMIT_SECONDS)
    assert await database.fetchval("select 1", timeout=LIMIT_SECONDS) == 1
    proxies[0].freeze()
    with pytest.raises(Unavailable):
        await database.fetchval("select 1", timeout=1)
    proxies[0].thaw()
    assert await database.fetchval("select 1", timeout=LIMIT_SECONDS) == 1
    await database.close()


async def test_a_call_is_cancelled_although_its_command_cannot_be(
    dsn: str, proxies: list[Proxy], sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_connections, "CANCEL_TIMEOUT_SECONDS", 0.05)
    database = Database(dsn_through(dsn, proxies[0]), name="test", size=1)
    async with sql.transaction():
        await sql.execute("select pg_advisory_xact_lock(7)")
        call = asyncio.create_task(database.fetchval("select pg_advisory_xact_lock(7)"))
        await until(lambda: sql.fetchval(WAITERS), lambda count: count == 1)
        proxies[0].freeze()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    proxies[0].thaw()
    await database.close()


@pytest.mark.parametrize("repeatable", [False, True])
@pytest.mark.parametrize("writes", [False, True])
async def test_a_call_tells_whether_its_statement_may_have_run(
    dsn: str, proxies: list[Proxy], repeatable: bool, writes: bool
) -> None:
    """Also where a later try could not connect. What only reads leaves nothing half done."""
    database = Database(dsn_through(dsn, proxies[0]), name="test", size=1, writes=writes)
    assert await database.fetchval("select 1") == 1
    proxies[0].lose_answers(1)
    proxies[0].target = 1  # new connections lead nowhere
    for sent in (True, False):
        with pytest.raises(NotConnected) as caught:
            await database.fetchval("select 1", repeatable=repeatable)
        assert caught.value.sent == (sent and writes)
    await database.close()


async def test_a_migration_ends_although_the_server_is_silent(
    dsn: str, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session waits an hour for an answer; the end of the session would wait as long."""

    def freeze() -> str:
        proxies[0].freeze()
        return schema.digest()

    monkeypatch.setattr(migrate, "digest", freeze)  # called after the last statement
    monkeypatch.setattr(migrate, "CLOSE_SECONDS", 0.1)
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await migrate.pending(dsn_through(dsn, proxies[0])) == ([], False)


async def test_a_listener_hears_while_its_old_session_still_holds_its_lock(
    dsn: str, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server notices late that the client of a session is gone; until then the session keeps the lock."""
    monkeypatch.setattr("service.db.listener.PING_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr("service.db.listener.PING_TIMEOUT_SECONDS", LIMIT_SECONDS)
    ghost = await asyncpg.connect(dsn)
    await ghost.fetchval("select pg_advisory_lock(treadle.worker_key('w'))")
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = Listener(dsn, {"news": heard.put_nowait}, lambda: None, worker="w")
    listening = asyncio.create_task(listener.run())
    try:
        await asyncio.wait_for(listener.connected.wait(), LIMIT_SECONDS)
        await sql.execute("notify news, 'x'")
        assert await asyncio.wait_for(heard.get(), LIMIT_SECONDS) == "x"
        assert listener.server_started is None  # so no janitor declares it dead because of that lock
        await ghost.close()
        await until(lambda: listener.server_started is not None)
    finally:
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def test_a_worker_cut_off_for_less_than_its_timeout_loses_nothing(
    dsn: str, proxies: list[Proxy], sql: Connection, settings: Settings, start_worker: StartWorker
) -> None:
    """All its connections go silent. Another worker runs, and takes nothing from it."""
    running, go = asyncio.Event(), asyncio.Event()

    @agent("waits")
    async def waits(context: Context, text: str) -> str:
        await context.emit("a")
        running.set()
        await go.wait()
        await context.emit("b")
        return text

    await start_worker(waits, database_url=dsn_through(dsn, proxies[0]), worker_timeout=30.0)
    message_id = await submit(sql, "x", agent="waits")
    await wait_for(running)
    await start_worker(echo, worker_timeout=30.0)
    beat = "select max(heartbeat_at) from treadle.workers where worker_id = (select worker_id from treadle.leases)"
    last = await sql.fetchval(beat)
    proxies[0].freeze()
    await until(
        lambda: sql.fetchval(f"select now() > ({beat}) + interval '2 seconds'")  # far more than 1.5 heartbeats
    )
    proxies[0].thaw()
    await until(lambda: sql.fetchval(f"select ({beat}) > $1::timestamptz + interval '2 seconds'", last))
    go.set()
    row = await settled(sql, message_id)
    assert (row["state"], row["attempt"], row["losses"]) == ("completed", 1, 0)
