"""Migrations, and the two descriptions of the schema they must agree with.

`RENEW_SCHEMA=1 make test ARGS=tests/sql/test_migrations.py` writes tests/sql/schema.sql. Read the difference:
signatures of functions are kept for one release, and views gain columns only at the end.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.db import migrate as migration
from service.db import schema
from service.db.migrate import migrate
from service.db.pool import Connection, Database, connect
from service.db.tables import metadata
from service.errors import SchemaError, Unavailable
from tests.support.migrations import NEXT, AddMigration
from tests.support.schema_dump import dumped_schema, function_bodies
from tests.support.sql_client import SqlClient

SCHEMA = Path(__file__).with_name("schema.sql")


# Migrations


async def test_a_second_migration_changes_nothing(sql_client: SqlClient, dsn: str) -> None:
    await sql_client.submit(thread_id="t")
    await sql_client.run()
    before = await sql_client.all_rows(), await dumped_schema(dsn), await function_bodies(sql_client.sql)
    await migrate(dsn)
    assert (await sql_client.all_rows(), await dumped_schema(dsn), await function_bodies(sql_client.sql)) == before


async def test_concurrent_migrations_of_an_empty_database(empty_dsn: str, dsn: str) -> None:
    await asyncio.gather(*(migrate(empty_dsn) for _ in range(3)))
    assert await dumped_schema(empty_dsn) == await dumped_schema(dsn)
    connection = await connect(empty_dsn, name="test")
    rows = await connection.fetch("select name, value from treadle.meta")
    facts = {row["name"]: row["value"] for row in rows}
    assert set(facts) == {"functions", "manifest", "pgmq", "release", "generated"}
    assert (facts["functions"], facts["release"]) == (schema.digest(), str(schema.SCHEMA_RELEASE))
    assert facts["pgmq"] == "1.13.0"
    await connection.close()


async def test_settings_of_a_database_change_no_meaning_of_our_sql(empty_dsn: str, dsn: str) -> None:
    admin = await connect(empty_dsn, name="test")
    alter = f"alter database {empty_dsn.rpartition('/')[2]}"
    for setting, value in (("standard_conforming_strings", "off"), ("quote_all_identifiers", "on")):
        await admin.execute(f"{alter} set {setting} = {value}")
    await migrate(empty_dsn)
    await admin.execute(f"{alter} reset all")  # pg_dump obeys them
    await admin.close()
    assert await dumped_schema(empty_dsn) == await dumped_schema(dsn)


@pytest.mark.parametrize("step", ["_install_pgmq", "_upgrade_tables", "_apply_functions"])
async def test_an_interrupted_migration_is_completed_by_the_next(
    empty_dsn: str, dsn: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It was interrupted before this step."""

    class PowerCut(Exception):
        pass

    def cut(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(migration, step, cut)
        with pytest.raises(PowerCut):
            await migrate(empty_dsn)
    await migrate(empty_dsn)
    assert await dumped_schema(empty_dsn) == await dumped_schema(dsn)


Release = Callable[..., None]


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Release:
    """Lets the next migration install a release with one more file; without one, this release."""

    def next_is(more: str = "") -> None:
        shutil.rmtree(tmp_path / "sql", ignore_errors=True)
        shutil.copytree(schema.SQL_FOLDER, tmp_path / "sql")
        (tmp_path / "sql" / "94_more.sql").write_text(more or "select")
        monkeypatch.setattr(migration, "SQL_FOLDER", tmp_path / "sql")

    return next_is


async def test_functions_are_replaced_all_or_none(sql: Connection, dsn: str, release: Release) -> None:
    """A release with a broken file changes no function, and is refused with one sentence."""
    before = await function_bodies(sql), await sql.fetch("table treadle.meta")
    release("drop function treadle.uuid7(); create function treadle.broken() returns nonsense language sql as ''")
    with pytest.raises(SchemaError, match=r'nothing was changed in this step: type "nonsense" does not exist\.$'):
        await migrate(dsn)
    assert (await function_bodies(sql), await sql.fetch("table treadle.meta")) == before


OLD = "create function treadle.old(m treadle.messages, x text default '') returns text language sql as 'select $2'"


async def test_obsolete_functions_are_dropped_and_changed_ones_restored(
    sql: Connection, dsn: str, release: Release
) -> None:
    before = await function_bodies(sql), await sql.fetch("select * from treadle.meta order by name")
    release(OLD)
    await migrate(dsn)
    assert len(await function_bodies(sql)) == len(before[0]) + 1
    await sql.execute(
        "create or replace function treadle.uuid7() returns uuid language sql volatile as 'select gen_random_uuid()'"
    )
    release()
    await migrate(dsn)
    assert (await function_bodies(sql), await sql.fetch("select * from treadle.meta order by name")) == before


async def test_an_obsolete_function_stays_while_a_view_depends_on_it(
    sql: Connection, dsn: str, release: Release
) -> None:
    before = await function_bodies(sql)
    release(OLD)
    await migrate(dsn)
    await sql.execute("create view public.mine as select treadle.old(m) from treadle.messages m")
    release()
    for _ in range(2):
        await migrate(dsn)
        assert await sql.fetch("table public.mine") == []
    await sql.execute("drop view public.mine")
    await migrate(dsn)
    assert await function_bodies(sql) == before


async def test_a_users_objects_in_our_schema_are_kept(sql: Connection, dsn: str) -> None:
    """The schema comes first in the search path of a role named treadle."""
    await sql.execute("""
        create function treadle.mine() returns trigger language plpgsql as 'begin return new; end';
        create table public.orders (x integer);
        create trigger mine before insert on public.orders for each row execute function treadle.mine();
        create function treadle.format(text, text) returns text language sql as $$ select 'not yours' $$;
        create function treadle.spare() returns integer language sql as 'select 7';
        create view treadle.report with (security_barrier) as table treadle.messages""")
    theirs = (
        "select oid, xmin, * from pg_proc where proname = any('{mine,format,spare}') order by 1",
        "select reloptions from pg_class where oid = 'treadle.report'::regclass",
    )
    before = await function_bodies(sql), [await sql.fetch(query) for query in theirs]
    await migrate(dsn)
    assert (await function_bodies(sql), [await sql.fetch(query) for query in theirs]) == before


async def test_without_a_manifest_no_function_is_dropped(sql: Connection, dsn: str, release: Release) -> None:
    release(OLD)
    await migrate(dsn)
    before = await function_bodies(sql)
    await sql.execute("delete from treadle.meta where name = 'manifest'")
    release()
    await migrate(dsn)
    assert await function_bodies(sql) == before


async def test_a_queue_or_an_agent_survives_a_migration(sql_client: SqlClient, dsn: str) -> None:
    await sql_client.register({"agent": "other", "queue": "side"})
    message_id = await sql_client.submit(agent="other")
    await sql_client.sql.execute("select treadle.pause('side')")
    await migrate(dsn)
    assert await sql_client.claim(queues=["side"]) == []
    await sql_client.sql.execute("select treadle.pause('side', false)")
    assert (await sql_client.claim_one(queues=["side"])).message_id == message_id


async def test_an_unknown_pgmq_is_refused(sql: Connection, dsn: str) -> None:
    await sql.execute("update treadle.meta set value = '9.1.0' where name = 'pgmq'")
    with pytest.raises(SchemaError, match=r"PGMQ 9\.1\.0 is not among the versions Treadle knows"):
        await migrate(dsn)


async def test_a_migrations_statement_may_take_long(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch, release: Release, add_migration: AddMigration
) -> None:
    """It may take longer than any other call."""
    monkeypatch.setattr(connect, "__kwdefaults__", {**(connect.__kwdefaults__ or {}), "command_timeout": 0.1})
    add_migration(f"""from alembic import op
revision, down_revision = "{NEXT}", "{schema.NEWEST_MIGRATION}"
upgrade = lambda: op.execute("select pg_sleep(0.3)")""")
    release("select pg_sleep(0.3)")
    await migrate(empty_dsn)
    monkeypatch.setattr(migration, "STATEMENT_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(Unavailable, match="TimeoutError"):
        await migrate(empty_dsn)


async def test_a_process_accepts_the_tables_of_its_release_or_newer_ones(sql: Connection, database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(migration.MIGRATIONS_FOLDER))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.NEWEST_MIGRATION
    for version, fine in ((schema.NEWEST_MIGRATION, True), ("0000", False), ("9999", True), (None, False)):
        await sql.execute("delete from treadle.alembic_version")
        if version:
            await sql.execute("insert into treadle.alembic_version values ($1)", version)
        if fine:
            await schema.require(database)
        else:
            with pytest.raises(SchemaError, match="run treadle migrate"):
                await schema.require(database)


@pytest.mark.parametrize("release", schema.DEVELOPMENT_RELEASES)
async def test_a_database_of_a_development_version_is_refused(
    sql: Connection, dsn: str, database: Database, release: str
) -> None:
    await sql.execute("update treadle.meta set value = $1 where name = 'release'", release)
    refused = "made by a development version and cannot be upgraded: start with a new database"
    with pytest.raises(SchemaError, match=refused):
        await schema.require(database)
    with pytest.raises(SchemaError, match=refused):
        await migrate(dsn)


@pytest.mark.parametrize("release", [str(schema.SCHEMA_RELEASE + 1), "x", "", "\u0665", "9" * 5_000])
async def test_a_migration_refuses_an_unknown_release(
    sql: Connection, dsn: str, database: Database, release: str
) -> None:
    await sql.execute("update treadle.meta set value = $1 where name = 'release'", release)
    with pytest.raises(SchemaError, match="is of the newer release"):
        await migration.pending(dsn)
    with pytest.raises(SchemaError, match="which this version does not know"):
        await schema.require(database)


async def test_a_migration_refuses_tables_of_an_unknown_revision(sql: Connection, dsn: str) -> None:
    await sql.execute("update treadle.alembic_version set version_num = '9999'")
    with pytest.raises(
        SchemaError, match="tables are of revision 9999, which this version does not know: run a version"
    ):
        await migrate(dsn)


# The descriptions of the schema


def drift(connection: SyncConnection) -> list[Any]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "include_schemas": True,
            "version_table_schema": "treadle",
            "target_metadata": metadata,
            "include_name": lambda name, type, parents: (
                name == "treadle"
                if type == "schema"
                else not (type == "table" and re.match("events_|records_|alembic_version", name or ""))
            ),
        },
    )
    found: list[Any] = []
    for difference in compare_metadata(context, metadata):
        found += difference if isinstance(difference, list) else [difference]
    return [difference for difference in found if "comment" not in difference[0]]  # said in the migration alone


async def drift_after(dsn: str, change: str) -> list[Any]:
    """The differences after this change of the database, which is rolled back."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(dsn, server_settings={"search_path": "public"}),
        poolclass=NullPool,
    )
    try:
        async with engine.connect() as connection:
            await connection.execute(text(change))
            return list(await connection.run_sync(drift))
    finally:
        await engine.dispose()


async def test_the_sqlalchemy_tables_are_those_of_the_database(dsn: str) -> None:
    assert await drift_after(dsn, "select") == []


DRIFTS = [
    ("alter table treadle.workers add column colour text", "remove_column"),
    ("alter table treadle.idempotency drop column answer", "add_column"),
    ("alter table treadle.workers alter column host drop not null", "modify_nullable"),
    ("alter table treadle.workers alter column in_flight type bigint", "modify_type"),
    ("alter table treadle.workers alter column in_flight set default 1", "modify_default"),
    ("drop index treadle.messages_due", "add_index"),
    ("create index mine on treadle.messages (agent)", "remove_index"),
    ("alter table treadle.threads drop constraint threads_tenant_thread_id_key", "add_constraint"),
    ("create table treadle.mine (x text)", "remove_table"),
    ("drop table treadle.idempotency", "add_table"),
]


async def test_every_kind_of_drift_is_found(dsn: str) -> None:
    for change, kind in DRIFTS:
        assert kind in [difference[0] for difference in await drift_after(dsn, change)], change


async def test_the_dumped_schema_is_the_committed_one(sql: Connection, dsn: str) -> None:
    if sql.get_server_version().major < 18:
        pytest.skip("the file is a dump of PostgreSQL 18: older servers do not name NOT NULL constraints")
    found = await dumped_schema(dsn)
    if os.environ.get("RENEW_SCHEMA"):
        SCHEMA.write_text(found)
    wanted = SCHEMA.read_text()
    assert found == wanted, (
        "the schema is not the one in tests/sql/schema.sql. If that is meant:"
        " RENEW_SCHEMA=1 make test ARGS=tests/sql/test_migrations.py"
    )
