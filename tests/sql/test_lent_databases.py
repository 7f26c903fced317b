"""The databases that tests have one after another: each test finds a new one's rows, and sessions like new ones."""

import contextlib
from collections.abc import Iterator

import asyncpg
import pytest

from service.db.pool import Connection
from tests.support.databases import Databases
from tests.support.sql_client import connect_sql, open_sql_client
from tests.support.waiting import until
from tests.support.warm_sessions import IDLE_NAME

SESSION = """
    select pg_backend_pid() as pid, current_user as role, current_setting('lock_timeout') as lock_timeout,
        current_setting('application_name') as name,
        coalesce(current_setting('treadle.clock_shift', true), '') as shift,
        array(select pg_listening_channels()) as channels, to_regclass('pg_temp.mine') is null as no_table,
        (select count(*) from pg_prepared_statements where from_sql) as statements,
        (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) as locks"""
CONTENT = """
    select array(select q::text from treadle.queues q) as queues,
        (select count(*) from treadle.messages) as messages, (select count(*) from treadle.events) as events,
        array(select coalesce(s.last_value, 0) from pg_sequences s) as numbers"""


@pytest.fixture
def databases_apart(databases: Databases) -> Iterator[Databases]:
    """Databases that no other test of this process was lent."""
    free, databases._free = databases._free, []
    yield databases
    for database in databases._free:
        databases._drop(database)
    databases._free = free


async def content(dsn: str) -> asyncpg.Record | None:
    sql = await asyncpg.connect(dsn)
    try:
        return await sql.fetchrow(CONTENT)
    finally:
        await sql.close()


async def test_the_next_test_finds_the_rows_of_the_template(databases_apart: Databases) -> None:
    with databases_apart.lend() as dsn:
        before = await content(dsn)
        sql = await connect_sql(dsn)
        async with open_sql_client(sql, dsn) as sql_client:
            await sql_client.submit(thread_id="t")
            await sql_client.run()
            await sql.execute("update treadle.queues set paused = true")
            assert await content(dsn) != before
            await sql.execute("update treadle.queues set paused = false")
        await sql.close()
    with databases_apart.lend() as again:
        assert again == dsn
        assert await content(again) == before


@pytest.mark.parametrize(
    "statement",
    [
        "create table treadle.mine ()",
        "drop view treadle.violations",
        "alter table treadle.messages alter column priority set default 'low'",
        "create or replace function treadle.clock() returns timestamptz language sql as 'select now()'",
        "grant select (tenant) on treadle.messages to public",
        "analyze treadle.queues",
        "do $$ begin execute format('alter database %I set lock_timeout = 1', current_database()); end $$",
        "insert into treadle.meta (name, value) select n, repeat('x', 1000) from generate_series(1, 2000) n",
    ],
)
async def test_a_database_that_a_test_changed_is_not_lent_again(databases_apart: Databases, statement: str) -> None:
    with databases_apart.lend() as dsn:
        sql = await connect_sql(dsn)
        await sql.execute(statement)
        await sql.close()
    with databases_apart.lend() as other:
        assert other != dsn


async def test_a_session_that_is_left_open_ends(databases_apart: Databases) -> None:
    with databases_apart.lend() as dsn:
        sql = await connect_sql(dsn)
        await sql.execute("begin; lock table treadle.messages")
    with databases_apart.lend() as again:
        assert again == dsn
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError):
            assert await sql.fetchval("select 1") is None
        assert await content(again) is not None
    sql.terminate()


@pytest.mark.parametrize("is_closed", [True, False])
async def test_a_connection_takes_over_a_session_like_a_new_one(sql: Connection, dsn: str, is_closed: bool) -> None:
    settings = {"application_name": "mine", "lock_timeout": "7s"}
    first = await asyncpg.connect(dsn, server_settings=settings)
    new, first_pid = await first.fetchrow(SESSION), first.get_server_pid()
    await first.execute("""
        select set_config('treadle.clock_shift', '1 second', false), pg_advisory_lock(1); set lock_timeout = 1;
        create temp table mine (); set role treadle_app; listen mine; prepare mine as select 1;
        set application_name = 'other'; begin""")
    if is_closed:
        await first.close()
    else:
        first.terminate()
    named = "select application_name from pg_stat_activity where pid = $1"
    await until(lambda: sql.fetchval(named, first_pid), lambda name: name == IDLE_NAME)
    second = await asyncpg.connect(dsn, server_settings=settings)
    assert await second.fetchrow(SESSION) == new
    await second.close()


async def test_a_session_with_stored_settings_is_new(sql: Connection, dsn: str) -> None:
    first = await asyncpg.connect(dsn)
    pid = first.get_server_pid()
    await first.execute(f"alter database {dsn.rpartition('/')[2]} set lock_timeout = '7s'")
    await first.close()
    second = await asyncpg.connect(dsn)
    assert second.get_server_pid() != pid
    assert await second.fetchval("show lock_timeout") == "7s"
    await second.close()
