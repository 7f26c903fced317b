"""The login role of a tenant: what it can do, and that it cannot reach another tenant or the installation."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.access.sql_roles.store import SqlRoleStore
from service.cli.address import with_login
from service.db.migrate import migrate
from service.db.pool import Connection, Database
from service.errors import Conflict, NotFound
from tests.support.sql_client import SqlClient, decode_jsonb
from tests.support.waiting import until

REFUSED = asyncpg.InsufficientPrivilegeError


@pytest.fixture
async def acme(sql_client: SqlClient, database: Database, dsn: str) -> AsyncIterator[Connection]:
    """A session of the tenant acme's login role."""
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    async with tenant_session(database, dsn, "acme") as connection:
        yield connection


@contextlib.asynccontextmanager
async def tenant_session(database: Database, dsn: str, tenant: str) -> AsyncIterator[Connection]:
    store = SqlRoleStore(database)
    role, password = await store.create(tenant, connections=5, statement_seconds=60)
    connection = await asyncpg.connect(with_login(dsn, role, password))
    await decode_jsonb(connection)
    yield connection
    await connection.close()
    await store.drop(role)


@pytest.fixture
async def other(sql_client: SqlClient) -> UUID:
    """A message `hidden` of the tenant `other` in its thread `hidden`, and a record in its topic `hidden`."""
    await sql_client.sql.execute("select treadle.create_tenant('other')")
    await sql_client.sql.execute("select treadle.create_topic('hidden', tenant => 'other')")
    await sql_client.sql.execute(
        "select treadle.create_subscription('hidden', '{#}', 'echo', tenant => 'other'),"
        " treadle.publish('hidden', '\"hidden\"', tenant => 'other')"
    )
    await sql_client.sql.execute("select treadle.sequence_records()")
    await sql_client.sql.execute(
        "select treadle.register_schema('hidden', 'JSON', '{}', treadle.uuid7(), latest => 0, tenant => 'other'),"
        " treadle.set_schema_rule('hidden', 'mode', 'READONLY', tenant => 'other')"
    )
    [row] = await sql_client.submit_many({"message": "hidden", "thread_id": "hidden"}, tenant="other")
    return UUID(str(row["message_id"]))


async def rows_of(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(query)]


# What it can do


async def test_it_submits_and_reads_its_own(sql_client: SqlClient, acme: Connection, other: UUID) -> None:
    message_id = await acme.fetchval("select treadle.submit('mine', thread_id => 'hidden')")
    rows = await acme.fetch("select message_id, user_message, thread_id, tenant from treadle.message_overview")
    assert [tuple(row) for row in rows] == [(message_id, "mine", "hidden", "acme")]
    assert await rows_of(acme, "select thread_id, queued, tenant from treadle.thread_overview") == [
        ("hidden", 1, "acme")
    ]
    assert await rows_of(acme, "select type from treadle.events") == [("queued",)]
    assert await rows_of(acme, "select queue, queued, ready from treadle.queue_overview") == [("default", 1, None)]
    assert await rows_of(acme, "select queue, queued from treadle.queue_counts") == [("default", 1)]
    assert await acme.fetchval("select count(*) from treadle.agent_overview") == 1
    assert await sql_client.sql.fetchval("select sum(queued) from treadle.queue_overview") == 2


async def test_it_publishes_and_reads_its_own_records(sql_client: SqlClient, acme: Connection, other: UUID) -> None:
    with pytest.raises(asyncpg.PostgresError, match="There is no topic 'hidden'"):
        await acme.fetchval("select treadle.publish('hidden', '1')")
    await sql_client.sql.execute("select treadle.create_topic('hidden', tenant => 'acme')")
    await sql_client.sql.execute("select treadle.create_subscription('mine', '{hidden}', 'echo', tenant => 'acme')")
    record_id = await acme.fetchval("select treadle.publish('hidden', '1')")
    await sql_client.sql.execute("select treadle.sequence_records()")
    assert await rows_of(acme, "select \"offset\", record_id, value from treadle.read_records('hidden', 0)") == [
        (0, record_id, 1)
    ]
    assert await rows_of(
        acme, 'select topic, "offset" from treadle.record_place((select record_id from treadle.records))'
    )
    assert await rows_of(acme, "select topic, next_offset, records_per_minute from treadle.topic_overview") == [
        ("hidden", 1, 1)
    ]
    assert await rows_of(acme, "select subscription, lag, open from treadle.subscription_overview") == [("mine", 1, 0)]
    for call in ("create_topic('mine')", "delete_subscription('mine')", "deliver_records()"):
        with pytest.raises(REFUSED):
            await acme.execute(f"select treadle.{call}")


async def test_it_deletes_its_own_thread(acme: Connection, other: UUID) -> None:
    await acme.fetchval("select treadle.submit('mine', thread_id => 'hidden')")
    assert await acme.fetchval("select treadle.delete_thread('hidden')") == 1
    with pytest.raises(asyncpg.PostgresError, match="There is no thread 'hidden'"):
        await acme.fetchval("select treadle.delete_thread('hidden')")


async def test_it_controls_its_own_messages(sql_client: SqlClient, acme: Connection) -> None:
    failed = await acme.fetchval("select treadle.submit('fails')")
    await sql_client.run(outcome="rejected")
    assert await acme.fetchval("select treadle.redrive($1)", failed) == "queued"
    assert await acme.fetchval("select treadle.queue_position($1)", failed) == 0
    assert await acme.fetchval("select treadle.cancel($1)", failed) == "cancelled"


@pytest.mark.parametrize("call", ["cancel($1)", "redrive($1)", "input($1, '1')", "queue_position($1)"])
async def test_a_message_of_another_tenant_is_unknown(acme: Connection, other: UUID, call: str) -> None:
    answers = []
    for message_id in (other, await acme.fetchval("select treadle.uuid7()")):
        try:
            answers.append(str(await acme.fetchval(f"select treadle.{call}", message_id)))
        except asyncpg.PostgresError as error:
            answers.append(str(error).replace(str(message_id), "..."))
    assert answers[0] == answers[1]


async def test_an_id_of_another_tenant_cannot_be_used(acme: Connection, other: UUID) -> None:
    message = json.dumps([{"message": "mine", "message_id": str(other)}])
    with pytest.raises(asyncpg.PostgresError, match="was used before"):
        await acme.fetch("select * from treadle.submit_many($1)", message)
    parent = json.dumps([{"message": "mine", "parent": str(other)}])
    await acme.fetch("select * from treadle.submit_many($1)", parent)
    assert await rows_of(acme, "select parent, depth from treadle.messages") == [(None, 0)]


async def test_it_cannot_name_another_principal_in_the_audit(sql_client: SqlClient, acme: Connection) -> None:
    message_id = await acme.fetchval("select treadle.submit('mine', thread_id => 'mine')")
    await acme.fetchval("select treadle.cancel($1, actor => 'key 4f2a (admin)')", message_id)
    await acme.fetchval("select treadle.delete_thread('mine', actor => 'key 4f2a (admin)')")
    rows = await sql_client.sql.fetch("select principal from treadle.audit where action !~ '^tenant' order by id")
    assert [row["principal"] for row in rows] == [f"role {await acme.fetchval('select session_user')}"] * 2


async def test_it_does_not_escape_its_limits_by_a_parent(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.sql.execute("select treadle.limit_tenant('acme', '{\"queued\": 2}')")
    parent = await acme.fetchval("select treadle.submit('mine')")
    child = json.dumps([{"message": "mine", "parent": str(parent)}])
    await acme.fetch("select * from treadle.submit_many($1)", child)
    with pytest.raises(asyncpg.PostgresError, match="may have 2 messages queued"):
        await acme.fetch("select * from treadle.submit_many($1)", child)


# What it cannot see

TOPICS = ("topics", "topic_ends", "topic_log", "records")
SUBSCRIPTIONS = ("subscriptions", "subscription_topics", "subscription_positions", "subscription_counts")
SCHEMAS = ("schemas", "schema_versions", "schema_rules")
VISIBLE = ("messages", "threads", "thread_turns", "events", "parked", "counters", *TOPICS, *SUBSCRIPTIONS, *SCHEMAS)
VIEWS = (
    *("message_overview", "thread_overview", "queue_counts", "topic_overview", "subscription_overview"),
    "schema_overview",
)


@pytest.mark.parametrize("name", VISIBLE + VIEWS)
async def test_it_sees_no_row_of_another_tenant(acme: Connection, other: UUID, name: str) -> None:
    assert await acme.fetchval(f"select count(*) from treadle.{name}") == 0
    assert await acme.fetchval(f"select count(*) from treadle.{name} t where t::text like '%hidden%'") == 0


async def test_a_function_in_a_condition_sees_no_row_of_another_tenant(acme: Connection, other: UUID) -> None:
    """The planner evaluates a cheap function of the reader's before other conditions, but not before the policy."""
    await acme.execute("create temp table seen (x text)")
    await acme.execute(
        "create function pg_temp.leak(x text) returns boolean language plpgsql cost 0.0000001 as"
        " 'begin insert into pg_temp.seen values (x); return true; end'"
    )
    await acme.execute("select treadle.submit('mine')")
    for name in ("messages", "message_overview"):
        column = "body" if name == "messages" else "user_message"
        await acme.fetch(f"select 1 from treadle.{name} where pg_temp.leak({column}::text)")
    assert await rows_of(acme, "select distinct x from pg_temp.seen") == [('"mine"',)]


async def test_it_reads_no_table_of_the_installation(sql_client: SqlClient, acme: Connection, other: UUID) -> None:
    names = await sql_client.sql.fetch(
        "select format('%I.%I', n.nspname, c.relname) as name, c.relkind::text as kind"
        " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('treadle', 'pgmq') and c.relkind in ('r', 'p', 'v', 'S')"
    )
    readable = set()
    for row in names:
        with contextlib.suppress(REFUSED):
            if row["kind"] == "S":
                await acme.execute(f"select last_value from {row['name']}")
            else:
                await acme.execute(f"select from {row['name']}")
            readable.add(row["name"].removeprefix("treadle."))
    assert readable == {
        *(*VISIBLE, *VIEWS),
        *("agents", "agent_overview", "leases", "queues", "queue_overview"),
    }
    for column in ("lease", "worker_id"):
        with pytest.raises(REFUSED):
            await acme.execute(f"select {column} from treadle.leases")


# How it could widen itself

FORBIDDEN = [
    "set role treadle_app",
    "set role treadle_worker",
    "set role treadle",
    "set session authorization treadle",
    "insert into treadle.sql_roles values (session_user, 'other', now())",
    "update treadle.sql_roles set tenant = 'other'",
    "table treadle.sql_roles",
    "grant treadle_app to current_user",
    "alter role current_user superuser",
    "alter role current_user bypassrls",
    "alter role treadle_app rename to mine",
    "alter table treadle.messages disable row level security",
    "drop policy own_tenant on treadle.messages",
    "create policy mine on treadle.messages using (true)",
    "set session_replication_role = replica",
    "begin; lock table treadle.messages in access exclusive mode",
    "begin; lock table treadle.threads in row exclusive mode",
    "select * from treadle.messages for update",
    "select * from treadle.queues for share",
    "update treadle.messages set tenant = 'acme'",
    "delete from treadle.events",
    "truncate treadle.counters",
    "copy treadle.messages from stdin",
    "copy treadle.sql_roles to stdout",
    "copy treadle.messages to '/tmp/x'",
    "copy treadle.messages to program 'cat'",
    "create function public.f() returns int language sql as 'select 1'",
    "create table public.t (x int)",
    "create operator public.= (leftarg = text, rightarg = text, function = textne)",
    "create function treadle.f() returns int language sql as 'select 1'",
    "create schema mine",
    "create extension dblink",
    "select pg_read_file('/etc/passwd')",
    "select lo_export(1, '/tmp/x')",
    "select pgmq.read('default_normal', 30, 1)",
    "select pgmq.send('default_normal', '{}')",
    "select pgmq.purge_queue('default_normal')",
    "select * from pgmq.q_default_normal",
    "select nextval('treadle.threads_id_seq')",
    "select nextval('pgmq.q_default_normal_msg_id_seq')",
    "select setval('treadle.counters_id_seq', 1)",
    "select treadle.claim('w', array['default'], 10, 60)",
    "select treadle.purge(0, 0)",
    "select treadle.reap('w', 1, 1, 1)",
    "select treadle.pause('default')",
    "select treadle.register_agents('[]')",
    "select treadle.read_events(array[treadle.uuid7()], array[0])",
    "select treadle.create_sql_role('other', 'x')",
    "select treadle.drop_sql_role(session_user)",
    "select treadle.create_queue('mine')",
    "select treadle._forget(array[treadle.uuid7()], 1)",
    "select treadle._bound_tenant('other')",
    "select treadle.submit_many('[]', tenant => 'other')",
    "select treadle.submit_once('k', '', '[]', tenant => 'other')",
    "select treadle.delete_thread('t', tenant => 'other')",
    "explain analyze select * from treadle._message_violations",
]


async def test_it_cannot_widen_itself(acme: Connection, other: UUID) -> None:
    """One test for all statements: a database for each would take half a minute."""
    allowed = []
    for statement in FORBIDDEN:
        try:
            await acme.execute(statement)
            allowed.append(statement)
        except asyncpg.PostgresError as refusal:
            if refusal.sqlstate != "42501" and "does not exist" not in str(refusal):
                allowed.append(f"{statement}: {refusal}")
            if "hidden" in str(refusal):
                allowed.append(f"{statement} tells: {refusal}")
        await acme.execute("rollback")
    assert allowed == []


async def test_no_setting_changes_its_tenant(acme: Connection, other: UUID) -> None:
    await acme.execute("set treadle.tenant = 'other'; set row_security = on; set search_path = treadle, pg_temp")
    await acme.execute("set role treadle_tenant" if acme.get_server_version().major < 16 else "select")
    assert await acme.fetchval("select count(*) from treadle.messages") == 0
    await acme.execute("set row_security = off")
    with pytest.raises(REFUSED, match="row-level security"):
        await acme.fetchval("select count(*) from treadle.messages")


async def test_no_object_of_its_own_is_run_by_a_function(acme: Connection, other: UUID) -> None:
    """Functions pin their search path: names and operators of a temporary schema come last, and are never needed."""
    await acme.execute(
        "create function pg_temp.clock_timestamp() returns timestamptz language sql as 'select ''epoch''::timestamptz';"
        "create temp view messages as select 1 as x; create temp table threads (id bigint, tenant text);"
        "set search_path = pg_temp, pg_catalog, treadle"
    )
    message_id = await acme.fetchval("select treadle.submit('mine', thread_id => 't')")
    assert await rows_of(acme, "select message_id, tenant from treadle.messages") == [(message_id, "acme")]
    assert await acme.fetchval("select created_at > '2020-01-01' from treadle.messages")


async def test_its_clock_is_the_installation_s(acme: Connection) -> None:
    await acme.execute("set treadle.clock_shift = '8 days'")
    assert await acme.fetchval("select extract(epoch from treadle.clock() - clock_timestamp())::integer") == 0


async def test_the_catalog_shows_neither_values_nor_statements_of_others(
    sql_client: SqlClient, acme: Connection, other: UUID
) -> None:
    await sql_client.sql.execute("analyze treadle.messages; analyze treadle.threads")
    found: dict[str, Any] = {}
    for view in ("pg_stats", "pg_stat_activity", "pg_sequences", "pg_prepared_statements", "pg_cursors", "pg_roles"):
        found[view] = [dict(row) for row in await acme.fetch(f"select to_jsonb(v) as row from {view} v")]
    text = json.dumps(found, default=str)
    assert "hidden" not in text
    assert "other" not in {row["row"]["rolname"] for row in found["pg_roles"]}
    assert [row["row"] for row in found["pg_stats"] if row["row"]["schemaname"] == "treadle"] == [
        row["row"] for row in found["pg_stats"] if row["row"].get("tablename") in {"agents", "queues"}
    ]
    numbers = [row["row"] for row in found["pg_sequences"] if row["row"]["schemaname"] in {"treadle", "pgmq"}]
    assert [row for row in numbers if row["last_value"] is not None] == []
    queries = [row["row"]["query"] for row in found["pg_stat_activity"] if row["row"]["usename"] == "treadle"]
    assert set(queries) == {"<insufficient privilege>"}


# What it could hold


async def test_its_advisory_locks_stop_nothing(sql_client: SqlClient, acme: Connection) -> None:
    names = ("fold_counters", "tend_parents", "sweep", "purge", "partitions", "register_agents", "create_queue")
    for name in names:
        await acme.execute(f"select pg_advisory_lock(hashtext('treadle.{name}'))")
    await acme.execute("select pg_advisory_lock(hashtext('treadle.concurrency'), hashtext('default'))")
    await acme.execute("set statement_timeout = 0")
    owner = sql_client.sql
    await owner.execute("set lock_timeout = '2s'")
    await sql_client.register({"agent": "one", "queue": "slow", "settings": {"concurrency": 1}})
    await sql_client.submit(agent="one")
    assert len(await sql_client.claim(queues=["slow"])) == 1
    await owner.execute("select treadle.ensure_partitions(5), treadle.tend_parents(), treadle.purge(1, 1)")
    for _ in range(3):
        await sql_client.submit()
    assert await owner.fetchval("select treadle.fold_counters()") > 0
    assert await owner.fetchval("select treadle._try_mutex('sweep')")


async def test_its_lock_keeps_no_dead_worker_alive(sql_client: SqlClient, acme: Connection) -> None:
    await acme.execute("select pg_advisory_lock(hashtextextended('treadle.worker.w', 0))")
    assert await sql_client.sql.fetchval("select treadle._worker_lock_is_free('w')")
    worker = await sql_client.connect()
    await acme.execute("select pg_advisory_unlock_all()")
    await worker.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    assert not await sql_client.sql.fetchval("select treadle._worker_lock_is_free('w')")
    waiting = asyncio.create_task(acme.execute("select pg_advisory_lock(hashtextextended('treadle.worker.w', 0))"))
    await worker.sql.execute("select pg_advisory_unlock_all()")
    await waiting
    assert await sql_client.sql.fetchval("select treadle._worker_lock_is_free('w')")


async def test_its_lock_does_not_stop_a_migration(acme: Connection, dsn: str) -> None:
    await acme.execute("select pg_advisory_lock(hashtextextended('treadle.migrate', 0))")
    await migrate(dsn)
    await until(acme.is_closed)


async def test_its_open_transaction_delays_only_its_thread(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.sql.execute("set lock_timeout = '1s'")
    async with acme.transaction():
        await acme.execute("select treadle.submit('held', thread_id => 't')")
        await acme.execute("select treadle.submit('held')")
        await sql_client.submit_many({"thread_id": "t"}, {"thread_id": "u"})
        await sql_client.submit_many({"thread_id": "u"}, {}, tenant="acme")
        assert len(await sql_client.claim(10)) == 4
    assert len(await sql_client.claim(10)) == 2


# The store


async def test_a_dropped_role_is_gone_with_its_sessions(sql: Connection, database: Database, dsn: str) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    store = SqlRoleStore(database)
    role, password = await store.create("acme", connections=2, statement_seconds=60)
    address = with_login(dsn, role, password)
    connection = await asyncpg.connect(address)
    await connection.execute("create temp table mine (x int); select lo_create(0)")
    assert [found.role for found in await store.all("acme")] == [role]
    await store.drop(role)
    await until(connection.is_closed)
    assert await store.all("acme") == []
    assert await sql.fetchval("select to_regrole($1)", role) is None
    with pytest.raises(NotFound):
        await store.drop(role)


async def test_no_role_is_created_where_public_may_create_objects(sql: Connection, database: Database) -> None:
    await sql.execute("select treadle.create_tenant('acme'); grant create on schema public to public")
    with pytest.raises(Conflict, match="revoke create on schema public from public"):
        await SqlRoleStore(database).create("acme", connections=2, statement_seconds=60)
    assert await sql.fetchval("select count(*) from treadle.sql_roles") == 0


async def test_a_role_has_a_limit_of_connections(sql: Connection, database: Database, dsn: str) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    store = SqlRoleStore(database)
    role, password = await store.create("acme", connections=1, statement_seconds=60)
    connection = await asyncpg.connect(with_login(dsn, role, password))
    assert await connection.fetchval("show statement_timeout") == "1min"
    with pytest.raises(asyncpg.TooManyConnectionsError):
        await asyncpg.connect(with_login(dsn, role, password))
    await store.drop(role)


async def test_a_deleted_tenant_has_no_roles(sql: Connection, database: Database) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    role, _ = await SqlRoleStore(database).create("acme", connections=1, statement_seconds=60)
    await sql.execute("select treadle.delete_tenant('acme')")
    assert await sql.fetchval("select to_regrole($1)", role) is None
    with pytest.raises(NotFound):
        await SqlRoleStore(database).create("acme", connections=1, statement_seconds=60)


async def test_a_role_that_is_created_during_the_deletion_goes_too(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    other = await sql_client.connect()
    transaction = sql_client.sql.transaction()
    await transaction.start()
    role = await sql_client.sql.fetchval("select treadle.create_sql_role('acme', verifier => 'x')")
    deletion = asyncio.create_task(other.sql.execute("select treadle.delete_tenant('acme')"))
    await sql_client.until_blocked(other)
    await transaction.commit()
    await deletion
    assert await sql_client.sql.fetch("select from treadle.sql_roles") == []
    assert await sql_client.sql.fetchval("select to_regrole($1)", role) is None


async def test_a_member_without_a_tenant_sees_and_does_nothing(sql_client: SqlClient, dsn: str) -> None:
    await sql_client.submit()
    await sql_client.sql.execute("create role unbound login in role treadle_tenant")
    connection = await asyncpg.connect(dsn.replace("treadle@", "unbound@"))
    assert await connection.fetchval("select count(*) from treadle.messages") == 0
    with pytest.raises(REFUSED, match="may not act for the tenant 'default'"):
        await connection.execute("select treadle.submit('x')")
    await connection.close()
    await sql_client.sql.execute("drop role unbound")
