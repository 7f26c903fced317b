"""A connection pooler before PostgreSQL is recognised: used where it keeps sessions, else named with what to set."""

import asyncio
import logging
import re

import pytest

from service.db import pooler as poolers
from service.db.listener import Listener
from service.db.pool import Connection, Database, connect
from service.errors import AddressRejected
from tests.support.pooler import pooler_before
from tests.support.waiting import until


@pytest.mark.parametrize("refuses_settings", [True, False])
async def test_a_transaction_pooler_without_its_setting_is_named(dsn: str, refuses_settings: bool) -> None:
    async with pooler_before(dsn, mode="transaction", refuses_settings=refuses_settings) as address:
        for name in ("api", "listener"):
            with pytest.raises(AddressRejected) as rejected:
                await connect(address, name=name)
            assert re.search("DATABASE_POOLER=transaction.*LISTEN_DATABASE_URL", rejected.value.reason)


async def test_a_transaction_pooler_with_its_setting_is_used(dsn: str) -> None:
    async with pooler_before(dsn, mode="transaction") as address:
        database = Database(address, name="test", size=2, pooler=True)
        assert await database.fetchval("select has_queues from treadle.health()") is True
        await database.close()


@pytest.mark.parametrize("refuses_settings", [True, False])
async def test_a_session_pooler_is_used_and_named_once(
    dsn: str, refuses_settings: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with pooler_before(dsn, mode="session", refuses_settings=refuses_settings) as address:
        for _ in range(2):
            connection = await connect(address, name="test")
            assert await connection.fetchval("select 1") == 1
            await connection.close()
        heard: list[str] = []
        listener = Listener(address, {"x": heard.append}, lambda: None)
        task = asyncio.create_task(listener.run())
        await until(listener.connected.is_set)
        direct = await connect(dsn, name="test")
        await direct.execute("notify x, 'y'")
        await until(lambda: heard)
        task.cancel()
        await direct.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "session mode" in warnings[0]


@pytest.mark.parametrize("refuses_settings", [True, False])
async def test_past_a_session_pooler_a_connection_has_limits_of_its_own(
    sql: Connection, dsn: str, refuses_settings: bool
) -> None:
    for setting, value in (("lock_timeout", "1min"), ("default_transaction_isolation", "serializable")):
        await sql.execute(f"alter database {await sql.fetchval('select current_database()')} set {setting} = '{value}'")
    async with pooler_before(dsn, mode="session", refuses_settings=refuses_settings) as address:
        connection = await connect(address, name="test", statement_timeout=70)
        found = [await connection.fetchval(f"show {name}") for name in ("lock_timeout", "statement_timeout")]
        assert found == ["0", "70s"]
        assert await connection.fetchval("show transaction_isolation") == "read committed"
        await connection.close()


async def test_a_direct_connection_is_not_taken_for_a_pooler(dsn: str, sql: Connection) -> None:
    connection = await connect(dsn, name="test")
    assert await connection.fetchval("show timezone") == "UTC"
    assert dsn not in poolers._session_poolers
    await connection.close()
