"""The schema: privileges, what its tables refuse, its ids and its clock."""

import contextlib
import json
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from service.db import migrate as migration
from service.db.migrate import migrate
from service.db.pool import Connection, connect
from service.db.tables import metadata
from service.errors import SchemaError
from tests.support.sql_client import SqlClient

# Privileges


SECRET_TABLES = {"sql_roles", "keys", "secrets", "webhooks", "callback_secrets", "push_configs"}


@pytest.fixture
async def person(sql: Connection) -> AsyncIterator[str]:
    """The name of a role that may log in and nothing else."""
    name = f"person_{uuid4().hex}"
    await sql.execute(f"create role {name} login")
    yield name
    await sql.execute(f"drop owned by {name}; drop role {name}")


@pytest.fixture
async def visitor(sql_client: SqlClient, person: str, dsn: str) -> AsyncIterator[Connection]:
    """A session of a role that was granted treadle_app."""
    await sql_client.sql.execute(f"grant treadle_app to {person}")
    connection = await asyncpg.connect(dsn, user=person)
    yield connection
    await connection.close()


async def test_public_may_call_and_read_nothing(sql: Connection, person: str, dsn: str) -> None:
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


async def test_treadle_app_may_submit_control_and_read(sql_client: SqlClient, visitor: Connection) -> None:
    message_id = await visitor.fetchval("select treadle.submit('hello', thread_id => 't')")
    rows = await visitor.fetch("select * from treadle.submit_many($1)", json.dumps([{"message": "x"}] * 2))
    assert await visitor.fetchval("select treadle.cancel($1)", rows[0]["message_id"]) == "cancelled"
    await sql_client.run(outcome="rejected")
    assert await visitor.fetchval("select count(*) from treadle.dead_letters") == 2
    assert await visitor.fetchval("select treadle.redrive($1)", message_id) == "queued"
    assert await visitor.fetchval("select treadle.queue_position($1)", message_id) == 0
    assert await visitor.fetchval("select count(*) from treadle.queued_messages()") == 1
    await visitor.execute("select treadle.pause('default'), treadle.pause('default', false)")
    views = await visitor.fetch(r"select viewname from pg_views where schemaname = 'treadle' and viewname !~ '^_'")
    assert len(views) == 17
    for row in views:
        await visitor.execute(f"select * from treadle.{row['viewname']}")
    for table in metadata.tables.values():
        if table.name not in SECRET_TABLES:
            await visitor.execute(f"table {table.fullname}")
    for secret in SECRET_TABLES:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await visitor.execute(f"table treadle.{secret}")
    assert await visitor.fetchval("select treadle.delete_thread('t')") == 1


SETTABLE_COLUMN = """
    select a.attname from pg_attribute a
    where a.attrelid = $1::text::regclass and a.attnum > 0 and a.attidentity = ''
    order by a.attnum limit 1"""


async def test_treadle_app_may_write_no_table(sql_client: SqlClient, visitor: Connection) -> None:
    await sql_client.submit(thread_id="t")
    tables = [table.fullname for table in metadata.tables.values()]
    tables += [f"pgmq.q_default_{lane}" for lane in ("high", "normal", "low", "dlq")]
    before = await sql_client.all_rows()
    for table in tables:
        column = await sql_client.sql.fetchval(SETTABLE_COLUMN, table)
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
        "select treadle._forget(array(select message_id from treadle.messages), 1)",
        "select treadle._lane_delete(array[row('default', 'normal', 1, null)::treadle.lane_row])",
        "select treadle._settle(treadle._endings(array(select message_id from treadle.messages), 'cancelled'), 1,"
        " now())",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await visitor.execute(statement)
    assert await sql_client.all_rows() == before


async def test_public_functions_run_with_their_owners_rights_and_a_pinned_search_path(sql: Connection) -> None:
    rows = await sql.fetch(
        "select p.oid::regprocedure::text as name, p.prosecdef as definer, p.proconfig as config from pg_proc p"
        " where p.pronamespace = 'treadle'::regnamespace"
    )
    pinned = "search_path=pg_catalog, pg_temp"
    assert [row["name"] for row in rows if row["definer"] and pinned not in (row["config"] or [])] == []
    public = {row["name"] for row in rows if not row["name"].startswith(("treadle._", "_"))}
    owners = {row["name"] for row in rows if row["definer"]}
    without_data = {"clock()", "uuid7()", "uuid_at(timestamp with time zone)", "worker_key(text)"}
    assert {name.removeprefix("treadle.") for name in public - owners} == without_data


@pytest.mark.parametrize("ready", ["nothing", "pgmq"])
async def test_a_migration_without_the_privilege_says_so(empty_dsn: str, person: str, ready: str) -> None:
    connection = await connect(empty_dsn, name="test")
    if ready == "pgmq":
        await migration._install_pgmq(connection)
        await connection.execute(f"grant usage on schema pgmq to {person}")
    theirs = re.sub("//[^@]*@", f"//{person}@", empty_dsn)
    with pytest.raises(SchemaError, match="This database user may not migrate: permission denied for database"):
        await migrate(theirs)
    await connection.execute(f"drop owned by {person}")
    await connection.close()


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
    "max_losses = 0",
    "owner = ''",
    "traceparent = '00-1'",
]

STATEMENTS = [
    "insert into treadle.queues (queue, created_at) values ('Bad Name', now())",
    "update treadle.agents set queue = 'nowhere'",
    "update treadle.agents set max_attempts = 0",
    "insert into treadle.agents (agent, queue, timeout_seconds, max_attempts, is_default, registered_at)"
    " select 'second', queue, 1, 1, true, now() from treadle.agents",
    "insert into treadle.threads (tenant, thread_id, created_at) values ('default', 'a/b', now())",
    "insert into treadle.threads (tenant, thread_id, created_at) values ('default', 't', now())",
    "insert into treadle.threads (tenant, thread_id, created_at) values ('default', '', now())",
    "insert into treadle.events (tenant, message_id, seq, type, created_at)"
    " values ('default', treadle.uuid7(), 0, 'x', now())",
    "insert into treadle.events (tenant, message_id, seq, type, created_at)"
    " select 'default', message_id, 1, 'x', now() from treadle.messages",
    "insert into treadle.idempotency (tenant, key, request_hash, created_at) values ('default', '', '', now())",
    "insert into treadle.leases (tenant, message_id, lease, worker_id, last_seq, claimed_at, expires_at)"
    " select 'default', message_id, message_id, 'w', 1, now(), now() from treadle.messages, generate_series(1, 2)",
]


async def test_the_tables_refuse_nonsense(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(thread_id="t")
    await sql_client.submit(thread_id="t")
    changes = [
        f"update treadle.messages set {change} where message_id = '{message_id}'" for change in CHANGES_OF_A_MESSAGE
    ]
    taken = []
    for statement in changes + STATEMENTS:
        with contextlib.suppress(asyncpg.IntegrityConstraintViolationError):
            await sql_client.sql.execute(statement)
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


async def test_every_time_has_an_id(sql: Connection) -> None:
    """Times before the first id map to the first, times after the last id to the last."""
    times = ["-infinity", "1969-12-31", "1970-01-01Z", "1970-01-02Z", "10889-08-02Z", "10890-01-01Z", "infinity"]
    ids = [await sql.fetchval(f"select treadle.uuid_at('{time}')") for time in times]
    assert [id.int >> 80 for id in ids] == [0, 0, 0, 86_400_000, 281474956800000, 2**48 - 1, 2**48 - 1]


async def test_the_clock_can_be_moved(sql: Connection) -> None:
    apart = "select extract(epoch from treadle.clock() - clock_timestamp())::integer"
    assert await sql.fetchval(apart) == 0
    await sql.execute("set treadle.clock_shift = '8 days'")
    assert await sql.fetchval(apart) == 8 * 86400
    await sql.execute("set treadle.clock_shift = ''")
    assert await sql.fetchval(apart) == 0
