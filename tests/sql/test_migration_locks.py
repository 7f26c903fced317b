"""A migration beside other transactions: it waits briefly, gives way, and holds up no submit."""

import asyncio

import pytest

from service.db import migrate as migration
from service.db.migrate import migrate
from service.db.pool import Connection, connect
from service.errors import SchemaError
from tests.support.schema_dump import function_bodies
from tests.support.sql_client import SqlClient
from tests.support.waiting import until


async def test_a_locked_table_is_reported_in_one_sentence(
    sql: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "VIEW_LOCK_PATIENCE_SECONDS", 0)
    before = await function_bodies(sql)
    other = await connect(dsn, name="test")
    for held in ("lock table treadle.messages in access exclusive mode", "table treadle.queue_overview"):
        async with other.transaction():
            await other.execute(held)
            with pytest.raises(SchemaError, match="Another transaction has locked a table or a view"):
                await migrate(dsn)
        assert await function_bodies(sql) == before
    await other.close()


async def test_submits_succeed_while_a_migration_waits_for_a_report(
    sql_client: SqlClient, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "VIEW_LOCK_TIMEOUT", "60s")
    report = await sql_client.connect()
    async with report.sql.transaction():
        await report.sql.execute("table treadle.worker_overview")
        migrating = asyncio.create_task(migrate(dsn))
        await until(lambda: blocks(sql_client, report))
        await sql_client.submit_many({}, {"thread_id": "t"}, max_queue_size=1000, patient=False, lock_timeout="5s")
    await migrating


async def test_a_migration_gives_way_to_a_report_that_it_would_deadlock_with(
    sql_client: SqlClient, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wants a view that the other holds: the migration releases its locks and retries."""
    monkeypatch.setattr(migration, "VIEW_LOCK_PAUSE_SECONDS", 0.05)
    report = await sql_client.connect()
    await report.sql.execute("set deadlock_timeout = '1h'")  # it is not the one that gives way
    async with report.sql.transaction():
        await report.sql.execute("table treadle.worker_overview")
        migrating = asyncio.create_task(migrate(dsn))
        await until(lambda: blocks(sql_client, report))
        await report.sql.execute("table treadle.message_overview; table treadle.queue_overview")
        await until(lambda: blocks(sql_client, report))
    await migrating


async def test_lanes_of_earlier_versions_are_fitted_unless_others_hold_them(
    sql_client: SqlClient, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each by itself, because claims wait for it."""
    for lane in ("high", "low"):
        await sql_client.sql.execute(f"create index q_default_{lane}_vt_idx on pgmq.q_default_{lane} (vt)")
    await sql_client.sql.execute("drop trigger treadle_deleted_rows on pgmq.q_default_normal")
    user = await sql_client.connect()
    unfit = "select array_agg(name) from treadle._unfit_lanes()"
    async with user.sql.transaction():
        await user.sql.execute("lock table pgmq.q_default_low in row exclusive mode")
        await migrate(dsn)
    assert await sql_client.sql.fetchval(unfit) == ["q_default_low"]
    assert "run treadle migrate again" in caplog.text
    await migrate(dsn)
    assert await sql_client.sql.fetchval(unfit) is None


async def blocks(sql_client: SqlClient, other: SqlClient) -> bool:
    """Whether any session waits for the other connection."""
    waiting = "select exists (select from pg_stat_activity where $1 = any(pg_blocking_pids(pid)))"
    return bool(await sql_client.sql.fetchval(waiting, other.sql.get_server_pid()))
