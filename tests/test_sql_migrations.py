"""Migrations, and that what is written down about the schema is what they make.

`RENEW_SCHEMA=1 make test ARGS=tests/test_sql_migrations.py` writes tests/schema.sql anew; read what changed in it:
signatures of functions are kept for a release, views gain columns only at the end.
"""

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from loom import Loom
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service import embedded
from service.db import migrate as migration
from service.db import schema
from service.db.migrate import migrate
from service.db.pool import Connection, connect
from service.db.tables import metadata
from service.errors import SchemaError

SCHEMA = Path(__file__).with_name("schema.sql")


# Migrations


async def dumped(dsn: str) -> str:
    """The schema treadle as pg_dump writes it: tables, views and signatures; less the inner functions, the grants
    (tested above), and what changes from day to day."""
    program = embedded.Embedded(Path("unused")).binary("pg_dump")
    process = await asyncio.create_subprocess_exec(
        program,
        *("--schema-only", "--schema=treadle", "--no-owner", "--no-privileges", "--exclude-table=treadle.events_2*"),
        f"--dbname={dsn}",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    dump = re.sub(r"(?ms)^    AS (\$\w*\$).*?\1;$", "    AS ...;", out.decode())
    dump = re.sub(r"(?ms)^CREATE FUNCTION treadle\._.*?^    AS \.\.\.;$", "", dump)
    lines = [line for line in dump.splitlines() if line and not re.match(r"--|SET |SELECT pg_catalog|\\", line)]
    return "\n".join(lines) + "\n"


async def bodies(sql: Connection) -> list[str]:
    rows = await sql.fetch(
        "select pg_get_functiondef(oid) as body from pg_proc where pronamespace = 'treadle'::regnamespace order by 1"
    )
    return [row["body"] for row in rows]


async def test_a_second_migration_changes_nothing(loom: Loom, dsn: str) -> None:
    await loom.submit(thread_id="t")
    await loom.run()
    before = await loom.everything(), await dumped(dsn), await bodies(loom.sql)
    await migrate(dsn)
    assert (await loom.everything(), await dumped(dsn), await bodies(loom.sql)) == before


async def test_migrations_at_once_on_an_empty_database(empty_dsn: str, dsn: str) -> None:
    await asyncio.gather(*(migrate(empty_dsn) for _ in range(3)))
    assert await dumped(empty_dsn) == await dumped(dsn)
    connection = await connect(empty_dsn, name="test")
    assert await connection.fetch("select name, value from treadle.meta order by name") == [
        ("functions", schema.digest()),
        ("pgmq", "1.13.0"),
        ("release", str(schema.RELEASE)),
    ]
    await connection.close()


@pytest.mark.parametrize("step", ["_install_pgmq", "_upgrade_tables", "_apply_functions"])
async def test_a_migration_that_was_interrupted_is_mended_by_the_next(
    empty_dsn: str, dsn: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It died before this step was done."""

    class PowerCut(Exception):
        pass

    def cut(*_: Any) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(migration, step, cut)
        with pytest.raises(PowerCut):
            await migrate(empty_dsn)
    await migrate(empty_dsn)
    assert await dumped(empty_dsn) == await dumped(dsn)


async def test_functions_come_all_or_none(
    sql: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A release whose last file is broken leaves the old functions in their places."""
    folder = tmp_path / "sql"
    shutil.copytree(schema.SQL, folder)
    (folder / "10_time.sql").write_text((folder / "10_time.sql").read_text().replace("a test (or a person", "anybody"))
    (folder / "96_broken.sql").write_text("create function treadle.broken() returns nonsense language sql as ''")
    before = await bodies(sql), await sql.fetch("table treadle.meta")
    with monkeypatch.context() as patch:
        patch.setattr(migration, "SQL", folder)
        with pytest.raises(asyncpg.UndefinedObjectError):
            await migrate(dsn)
    assert (await bodies(sql), await sql.fetch("table treadle.meta")) == before


async def test_what_is_not_of_this_release_goes_and_what_was_changed_is_put_back(sql: Connection, dsn: str) -> None:
    before = await bodies(sql)
    await sql.execute("create function treadle.old(x integer) returns integer language sql as 'select x'")
    await sql.execute(
        "create or replace function treadle.uuid7() returns uuid language sql volatile as 'select gen_random_uuid()'"
    )
    await migrate(dsn)
    assert await bodies(sql) == before


async def test_a_queue_or_an_agent_survives_a_migration(loom: Loom, dsn: str) -> None:
    await loom.register({"agent": "other", "queue": "side"})
    message_id = await loom.submit(agent="other")
    await loom.sql.execute("select treadle.pause('side')")
    await migrate(dsn)
    assert await loom.claim(queues=["side"]) == []
    await loom.sql.execute("select treadle.pause('side', false)")
    assert (await loom.claim_one(queues=["side"])).message_id == message_id


async def test_an_unknown_pgmq_is_refused(sql: Connection, dsn: str) -> None:
    await sql.execute("update treadle.meta set value = '9.1.0' where name = 'pgmq'")
    with pytest.raises(SchemaError, match=r"PGMQ 9\.1\.0 is not among the versions Treadle knows"):
        await migrate(dsn)


async def test_a_locked_table_is_one_clear_sentence(sql: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "LOCK_TIMEOUT", "50ms")
    before = await bodies(sql)
    other = await connect(dsn, name="test")
    async with other.transaction():
        await other.execute("lock table treadle.messages in access exclusive mode")
        with pytest.raises(SchemaError, match="A table is locked by somebody else"):
            await migrate(dsn)
    await other.close()
    assert await bodies(sql) == before


# What is written down


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
                else not (type == "table" and re.match("events_|alembic_version", name or ""))
            ),
        },
    )
    found: list[Any] = []
    for difference in compare_metadata(context, metadata):
        found += difference if isinstance(difference, list) else [difference]
    return [difference for difference in found if "comment" not in difference[0]]  # said in the migration alone


async def drift_after(dsn: str, change: str) -> list[Any]:
    """What differs when the database was changed so; the change is not kept."""
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


async def test_sqlalchemy_knows_the_tables_as_they_are(dsn: str) -> None:
    assert await drift_after(dsn, "select") == []


DRIFTS = [
    ("alter table treadle.workers add column colour text", "remove_column"),
    ("alter table treadle.leases drop column tenant", "add_column"),
    ("alter table treadle.workers alter column host drop not null", "modify_nullable"),
    ("alter table treadle.leases alter column last_seq type bigint", "modify_type"),
    ("alter table treadle.workers alter column in_flight set default 1", "modify_default"),
    ("drop index treadle.messages_due", "add_index"),
    ("create index mine on treadle.messages (agent)", "remove_index"),
    ("alter table treadle.threads drop constraint threads_tenant_thread_id_key", "add_constraint"),
    ("create table treadle.mine (x text)", "remove_table"),
    ("drop table treadle.idempotency", "add_table"),
]


async def test_a_drift_would_be_found(dsn: str) -> None:
    for change, kind in DRIFTS:
        assert kind in [difference[0] for difference in await drift_after(dsn, change)], change


async def test_the_dumped_schema_is_the_one_in_the_file(dsn: str) -> None:
    found = await dumped(dsn)
    if os.environ.get("RENEW_SCHEMA"):
        SCHEMA.write_text(found)
    wanted = SCHEMA.read_text()
    assert found == wanted, (
        "the schema is not the one in tests/schema.sql. If that is meant:"
        " RENEW_SCHEMA=1 make test ARGS=tests/test_sql_migrations.py"
    )
