"""Limits of the database or of the role, such as lock_timeout, fail no call of the service."""

import asyncio
from typing import Any

import asyncpg
import pytest

from service.db import connection
from service.db.pool import Connection, Database
from service.errors import Busy
from service.worker.persistence import persist_lookup
from tests.support.databases import patient
from tests.support.fixture_types import StartWorker
from tests.support.messages import run, settled, submit
from tests.support.waiting import until
from treadle import Context, agent

LIMITS = {
    "lock_timeout": "1ms",
    "statement_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
}
NO_LIMITS = dict.fromkeys(LIMITS, "0")  # of a session of the test, which may be slow


@pytest.fixture
async def strict(sql: Connection) -> None:
    """A database with strict limits of its own."""
    name = await sql.fetchval("select current_database()")
    for limit, value in {**LIMITS, "default_transaction_isolation": "serializable"}.items():
        await sql.execute(f"alter database {name} set {limit} = '{value}'")


def database_of(dsn: str, *settings: str, **options: Any) -> Database:
    """With more time to connect than the product has."""
    return Database("&".join([patient(dsn), *settings]), name="test", size=1, **options)


@pytest.mark.usefixtures("strict")
async def test_a_connection_has_the_limits_of_the_service(dsn: str) -> None:
    for seconds, expected in ((0.0, "0"), (60.5, "60500ms")):
        database = database_of(dsn, statement_timeout=seconds)
        found = [await database.fetchval(f"show {limit}") for limit in LIMITS]
        assert found == ["0", expected, "0", "0"]
        assert await database.fetchval("show transaction_isolation") == "read committed"
        await database.close()


@pytest.mark.usefixtures("strict")
async def test_the_settings_of_the_address_stay(dsn: str) -> None:
    database = database_of(dsn, "options=-c%20lock_timeout%3D7s%20--statement-timeout%3D8s")
    assert [await database.fetchval(f"show {limit}") for limit in LIMITS] == ["7s", "8s", "0", "0"]
    await database.close()


@pytest.mark.usefixtures("strict")
async def test_a_worker_claims_in_a_database_that_is_serializable_and_has_no_patience(
    sql: Connection, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    @agent("echo")
    async def echo(context: Context, text: str) -> str:
        return text

    await start_worker(echo)
    ids = [await submit(sql, str(n), agent="echo", thread_id=f"t{n % 5}") for n in range(30)]
    assert {(await settled(sql, message_id))["state"] for message_id in ids} == {"completed"}
    assert "claim failed" not in caplog.text


async def test_an_older_server_is_not_asked_for_a_limit_that_it_does_not_have(
    sql: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL 16 refuses transaction_timeout as this server refuses a name that it does not know."""
    monkeypatch.setattr(connection, "TRANSACTION_TIMEOUT", "no_such_timeout")
    monkeypatch.setattr(connection, "LIMITS", {"no_such_timeout": "0", "lock_timeout": "0"})
    monkeypatch.setattr(connection, "_older_servers", set())
    monkeypatch.setattr(connection, "LAST_MAJOR_WITHOUT_IT", 99)
    await sql.execute(f"alter database {await sql.fetchval('select current_database()')} set lock_timeout = '1ms'")
    for _ in range(2):
        opened = await connection.connect(patient(dsn), name="test")
        assert await opened.fetchval("show lock_timeout") == "0"
        await opened.close()


async def test_a_connection_reads_sql_as_the_service_writes_it(sql: Connection, dsn: str) -> None:
    expected = {"standard_conforming_strings": "on", "quote_all_identifiers": "off", "row_security": "on"}
    for setting, value in expected.items():
        other = "off" if value == "on" else "on"
        await sql.execute(f"alter database {await sql.fetchval('select current_database()')} set {setting} = {other}")
    database = database_of(dsn)
    assert {setting: await database.fetchval(f"show {setting}") for setting in expected} == expected
    await database.close()


@pytest.mark.usefixtures("strict")
async def test_a_lookup_waits_for_a_locked_table(
    sql: Connection, start_worker: StartWorker, dsn: str, database: Database
) -> None:
    began, locked = asyncio.Event(), asyncio.Event()

    @agent("reader")
    async def reader(context: Context, text: str) -> int:
        began.set()
        await locked.wait()
        return len(await context.history())

    await start_worker(reader)
    locked.set()
    await run(sql, "first", agent="reader", thread_id="t")
    began.clear()
    locked.clear()
    message_id = await submit(sql, "second", agent="reader", thread_id="t")
    await began.wait()
    holder = await asyncpg.connect(dsn, server_settings=NO_LIMITS)
    try:
        async with holder.transaction():
            await holder.execute("lock table treadle.messages in access exclusive mode")
            locked.set()
            waits = (
                "select exists (select from pg_stat_activity where query like '%treadle.exchanges%'"
                " and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '700 ms')"
            )
            await until(lambda: database.fetchval(waits))
    finally:
        await holder.close()
    row = await settled(sql, message_id)
    assert (row["state"], row["result"], row["failures"], row["attempt"]) == ("completed", 1, 0, 1)


async def test_a_lookup_that_finds_a_lock_is_repeated() -> None:
    """Behind a pooler, where the limits of the database hold."""
    tries: list[int] = []

    async def look_up() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise Busy("locked")
        return "found"

    assert await persist_lookup("test", look_up) == "found"
    assert len(tries) == 3
