"""A session that listens without reading fills PostgreSQL's queue of notifications: no write fails for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from service.agents.builtin.echo import echo
from service.db.migrate import migrate
from service.db.notifier import EVENTS, EVERYTHING, WORK, Notifier
from service.db.pool import Connection, Database
from service.errors import Unavailable
from service.local.private_postgres import temporary_postgres
from service.maintenance.store import MaintenanceStore
from service.maintenance.watch_notify import WatchNotify
from tests.support.api_client import Client
from tests.support.fixture_types import StartApi, StartWorker
from tests.support.sql_client import SqlClient
from tests.support.sql_files import sql_files
from tests.support.waiting import LIMIT_SECONDS, until
from treadle import Context, agent

PAGES = 64  # of the queue; the smallest that PostgreSQL takes


@pytest.fixture(scope="module")
def small_queue_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, because the queue belongs to the whole server."""
    home: Path = tmp_path_factory.mktemp("postgres")
    with temporary_postgres(home, options={"max_notify_queue_pages": str(PAGES)}) as server:
        dsn = f"postgresql://treadle@127.0.0.1:{server.port}/treadle"
        asyncio.run(migrate(dsn))
        yield dsn


@pytest.fixture
def dsn(small_queue_dsn: str) -> str:
    return small_queue_dsn


@pytest.fixture
async def sleeper(dsn: str) -> AsyncIterator[Connection]:
    """A session that listens and stays in a transaction. `fill` then fills the queue."""
    session = await asyncpg.connect(dsn, server_settings={"application_name": "sleeper"})
    await session.execute("listen nothing")
    await session.execute("begin; select 1")
    yield session
    await session.close()


async def fill(sql: Connection) -> None:
    await sql.execute("select pg_notification_queue_usage()")  # PostgreSQL forgets what every session has read

    async def notify() -> None:
        for n in range(3 * PAGES):
            await sql.execute(f"select pg_notify('x', repeat('{n:04}', 1900))")

    with pytest.raises(asyncpg.ProgramLimitExceededError):
        await notify()


@agent("asks")
async def asks(context: Context, text: str) -> str:
    await context.emit("one moment")
    return str(await context.input("well?"))


async def test_every_call_succeeds_while_the_queue_is_full(sql_client: SqlClient, sleeper: Connection) -> None:
    failed = await sql_client.submit()
    await sql_client.finish(await sql_client.claim_one(), outcome="rejected")
    asking = await sql_client.submit(thread_id="asking")
    await sql_client.sql.execute(
        "select treadle.conclude($1, $2, 'input', '{\"name\": \"q\"}', null, null, null, null, 3, '{}', '{}', 3, null,"
        " null, null)",
        asking,
        (await sql_client.claim_one()).lease,
    )
    await fill(sql_client.sql)
    cancelled = await sql_client.sql.fetchval("select treadle.submit('x', thread_id => 'deleted', notify => true)")
    await sql_client.submit_many({"thread_id": "t"}, {}, notify=True)
    assert await sql_client.cancel(cancelled) == "cancelled"
    assert await sql_client.redrive(failed) == "queued"
    assert await sql_client.sql.fetchval("select treadle.input($1, '\"yes\"')", asking) == "queued"
    running = (await sql_client.claim(1))[0]
    assert await sql_client.cancel(running.message_id) == "requested"
    assert await sql_client.finish(running) == ["cancelled"]
    for call in (
        "pause('default', true)",
        "pause('default', false)",
        "drop_instance('echo', 't')",
        "delete_thread('deleted')",
    ):
        await sql_client.sql.execute(f"select treadle.{call}")
    assert await sql_client.sql.fetchval("select not hints_sent from treadle.notify_health()")


async def test_the_service_works_on_and_says_what_slows_it_down(
    sql: Connection,
    sleeper: Connection,
    start_api: StartApi,
    start_worker: StartWorker,
) -> None:
    await start_worker(echo, asks)
    api: Client = await start_api()
    assert (await api.get("/health")).json()["reasons"] == []
    await fill(sql)
    message_id = await api.submit("hello", agent="asks", thread_id="asked")
    await until(lambda: api.status(message_id), lambda status: status["hold"] == "input")
    assert (await api.post(f"/messages/{message_id}/input", json={"input": "yes"})).status_code == 202
    assert (await api.settled(message_id))["result"] == "yes"
    health = (await api.get("/health")).json()
    assert (health["status"], "sleeper" in health["reasons"][0]) == ("degraded", True)


async def test_a_chore_warns_until_hints_are_sent_again(
    sql: Connection, database: Database, sleeper: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "service")
    watch = WatchNotify(MaintenanceStore(database))
    await watch.run()
    await fill(sql)
    await watch.run()
    await sleeper.execute("commit")
    await until(lambda: sql.fetchval("select hints_sent from treadle.notify_health()"))
    await watch.run()
    await watch.run()
    warning, back = [record.getMessage() for record in caplog.records]
    assert "sleeper" in warning
    assert back == "hints are sent again"


async def test_hints_come_again_as_soon_as_the_session_reads(
    sql: Connection, database: Database, sleeper: Connection, dsn: str
) -> None:
    notifier = Notifier(database)
    received: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    listener = await asyncpg.connect(dsn)
    for channel in (WORK, EVENTS):
        await listener.add_listener(channel, lambda _, __, channel, payload: received.put_nowait((channel, payload)))
    await fill(sql)
    notifier.hint(WORK, "lost")
    await notifier.flush()
    await sleeper.execute("commit")
    await until(lambda: sql.fetchval("select hints_sent from treadle.notify_health()"))
    notifier.hint(WORK, "default")
    assert await asyncio.wait_for(received.get(), LIMIT_SECONDS) == (WORK, "default")
    await listener.close()


async def test_a_write_that_notifies_without_asking_may_be_repeated(
    sql: Connection, database: Database, sleeper: Connection
) -> None:
    """A trigger of the user's own may notify: the call fails as unavailable, not as wrong."""
    await fill(sql)
    with pytest.raises(Unavailable, match="queue of notifications is full"):
        await database.fetchval("select pg_notify('x', repeat('x', 7900))", repeatable=False)


async def test_a_payload_that_is_too_long_becomes_a_star(sql: Connection, dsn: str) -> None:
    received: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(dsn)
    await listener.add_listener(WORK, lambda _, __, ___, payload: received.put_nowait(str(payload)))
    await sql.execute("select treadle._hint('treadle_work', repeat('x', 8000))")
    assert await asyncio.wait_for(received.get(), LIMIT_SECONDS) == EVERYTHING
    await listener.close()


def test_only_hint_notifies() -> None:
    found = [file.name for file in sql_files() for _ in range(file.read_text(encoding="utf-8").count("pg_notify("))]
    assert found == ["13_hints.sql"]
