"""The schema: who may do what, migrations, and that what is written down about it is what is there.

`RENEW_SCHEMA=1 make test ARGS=tests/test_sql_schema.py` writes tests/schema.sql anew; read what changed in it:
signatures of functions are kept for a release, views gain columns only at the end.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

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


# Who may do what


@pytest.fixture
async def person(sql: Connection) -> AsyncIterator[str]:
    """The name of a role that may log in and nothing else."""
    name = f"person_{uuid4().hex}"
    await sql.execute(f"create role {name} login")
    yield name
    await sql.execute(f"drop owned by {name}; drop role {name}")


@pytest.fixture
async def visitor(loom: Loom, person: str, dsn: str) -> AsyncIterator[Connection]:
    """A session of somebody who was given treadle_app."""
    await loom.sql.execute(f"grant treadle_app to {person}")
    connection = await asyncpg.connect(dsn, user=person)
    yield connection
    await connection.close()


async def test_the_public_may_execute_nothing_and_see_nothing(sql: Connection, person: str, dsn: str) -> None:
    rows = await sql.fetch(
        "select p.oid::regprocedure::text as name from pg_proc p where p.pronamespace = 'treadle'::regnamespace"
        " and has_function_privilege($1, p.oid, 'execute')",
        person,
    )
    assert [row["name"] for row in rows] == []
    assert await sql.fetchval("select count(*) from pg_proc where pronamespace = 'treadle'::regnamespace") > 40
    connection = await asyncpg.connect(dsn, user=person)
    for statement in ("select treadle.submit('x')", "select * from treadle.queue_overview", "table treadle.messages"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_whoever_was_given_treadle_app_has_all_the_doors_and_can_look(loom: Loom, visitor: Connection) -> None:
    message_id = await visitor.fetchval("select treadle.submit('hello', thread_id => 't')")
    rows = await visitor.fetch("select * from treadle.submit_many($1)", json.dumps([{"message": "x"}] * 2))
    assert await visitor.fetchval("select treadle.cancel($1)", rows[0]["message_id"]) == "cancelled"
    await loom.run(outcome="rejected")
    assert await visitor.fetchval("select count(*) from treadle.dead_letters") == 2
    assert await visitor.fetchval("select treadle.redrive($1)", message_id) == "queued"
    assert await visitor.fetchval("select treadle.queue_position($1)", message_id) == 0
    assert await visitor.fetchval("select count(*) from treadle.waiting()") == 1
    await visitor.execute("select treadle.pause('default'), treadle.pause('default', false)")
    views = await visitor.fetch("select viewname from pg_views where schemaname = 'treadle'")
    assert len(views) == 6
    for row in views:
        await visitor.execute(f"select * from treadle.{row['viewname']}")
    for table in metadata.tables.values():
        await visitor.execute(f"table {table.fullname}")
    assert await visitor.fetchval("select treadle.delete_thread('t')") == 1


async def test_whoever_was_given_treadle_app_can_write_no_table(loom: Loom, visitor: Connection) -> None:
    await loom.submit(thread_id="t")
    tables = [table.fullname for table in metadata.tables.values()]
    tables += [f"pgmq.q_default_{lane}" for lane in ("high", "normal", "low", "dlq")]
    before = await loom.everything()
    for table in tables:
        column = "vt" if table.startswith("pgmq") else "tenant"
        for statement in (
            f"insert into {table} default values",
            f"update {table} set {column} = {column}",
            f"delete from {table}",
            f"truncate {table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await visitor.execute(statement)
    for statement in (
        "create table treadle.mine (x text)",
        "create or replace function treadle.mine() returns text language sql as 'select 1::text'",
        "drop function treadle.clock",
        "select treadle._forget(array(select message_id from treadle.messages))",
        "select treadle._lane_delete('{default}', '{normal}', '{1}')",
        "select treadle._settle(array(select message_id from treadle.messages), '{cancelled}', null, null, null, null,"
        " null, null, null, null, null, null, null, 1, now())",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await visitor.execute(statement)
    assert await loom.everything() == before


async def test_every_door_runs_with_its_owner_s_rights_and_a_pinned_search_path(sql: Connection) -> None:
    rows = await sql.fetch(
        "select p.oid::regprocedure::text as name, p.prosecdef as definer, p.proconfig as config from pg_proc p"
        " where p.pronamespace = 'treadle'::regnamespace"
    )
    pinned = "search_path=pg_catalog, pg_temp"
    assert [row["name"] for row in rows if row["definer"] and pinned not in (row["config"] or [])] == []
    doors = ("submit", "submit_many", "submit_once", "cancel", "redrive", "pause", "delete_thread", "claim", "finish")
    names = {row["name"].removeprefix("treadle.").partition("(")[0]: row["definer"] for row in rows}
    assert [name for name in doors if not names[name]] == []


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


@pytest.mark.parametrize("ready", ["nothing", "pgmq"])
async def test_who_may_not_migrate_is_told_so(empty_dsn: str, person: str, ready: str) -> None:
    connection = await connect(empty_dsn, name="test")
    if ready == "pgmq":
        await migration._install_pgmq(connection)
        await connection.execute(f"grant usage on schema pgmq to {person}")
    theirs = re.sub("//[^@]*@", f"//{person}@", empty_dsn)
    with pytest.raises(SchemaError, match="This database user may not migrate: permission denied for database"):
        await migrate(theirs)
    await connection.execute(f"drop owned by {person}")
    await connection.close()


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
        " RENEW_SCHEMA=1 make test ARGS=tests/test_sql_schema.py"
    )


# The tables refuse nonsense


CHANGES_OF_A_MESSAGE = [
    "state = 'asleep'",
    "hold = 'mood'",
    "lane = 'middle'",
    "priority = 'urgent'",
    "rank = 3",
    "max_attempts = 0",
    "timeout_seconds = 0",
    "hold = 'delay', state = 'processing', lane = null, lane_id = null",
    "hold = 'delay'",
    "lane = null, lane_id = null",
    "lane_id = null",
    "lane = 'dlq'",
    "state = 'failed', completed_at = now()",
    "state = 'completed', completed_at = now()",
    "state = 'completed', lane = null, lane_id = null",
    "completed_at = now()",
    "thread = null",
    "ord = null",
    "ord = 2",
    "body = null",
]

STATEMENTS = [
    "insert into treadle.queues (queue, created_at) values ('Bad Name', now())",
    "update treadle.agents set queue = 'nowhere'",
    "update treadle.agents set max_attempts = 0",
    "insert into treadle.agents select tenant, 'second', queue, 1, 1, true, null, '', now() from treadle.agents",
    "insert into treadle.threads (thread_id, created_at, last_activity) values ('a/b', now(), now())",
    "insert into treadle.threads (thread_id, created_at, last_activity) values ('t', now(), now())",
    "insert into treadle.threads (thread_id, created_at, last_activity) values ('', now(), now())",
    "insert into treadle.events (message_id, seq, type, created_at) values (treadle.uuid7(), 0, 'x', now())",
    "insert into treadle.events (message_id, seq, type, created_at)"
    " select message_id, 1, 'x', now() from treadle.messages",
    "insert into treadle.idempotency (key, request_hash, created_at) values ('', '', now())",
    "insert into treadle.leases select message_id, 'default', message_id, 'w', null, 1, false, now(), now()"
    " from treadle.messages, generate_series(1, 2)",
]


async def test_the_tables_refuse_nonsense(loom: Loom) -> None:
    message_id = await loom.submit(thread_id="t")
    await loom.submit(thread_id="t")
    changes = [
        f"update treadle.messages set {change} where message_id = '{message_id}'" for change in CHANGES_OF_A_MESSAGE
    ]
    taken = []
    for statement in changes + STATEMENTS:
        with contextlib.suppress(asyncpg.IntegrityConstraintViolationError):
            await loom.sql.execute(statement)
            taken.append(statement)
    assert taken == []


# Ids and time


async def test_ids_are_uuid7_in_the_order_of_time(sql: Connection) -> None:
    row = await sql.fetchrow(
        "select treadle.uuid7() as id, treadle.uuid_at(clock_timestamp() - interval '10 seconds') as low,"
        " treadle.uuid_at(clock_timestamp() + interval '10 seconds') as high"
    )
    assert row is not None
    assert row["low"] < row["id"] < row["high"]
    assert (row["id"].version, row["id"].variant) == (7, "specified in RFC 4122")
    assert await sql.fetchval("select count(distinct treadle.uuid7()) from generate_series(1, 1000)") == 1000


async def test_the_clock_can_be_moved(sql: Connection) -> None:
    apart = "select extract(epoch from treadle.clock() - clock_timestamp())::integer"
    assert await sql.fetchval(apart) == 0
    await sql.execute("set treadle.clock_shift = '8 days'")
    assert await sql.fetchval(apart) == 8 * 86400
    await sql.execute("set treadle.clock_shift = ''")
    assert await sql.fetchval(apart) == 0
