"""The login role of a tenant: what it cannot see, and how it could widen itself."""

import contextlib
import json
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.db.pool import Connection
from tests.support.sql_client import SqlClient
from tests.support.tenant_logins import REFUSED, rows_of

TOPICS = ("topics", "topic_ends", "topic_log", "records")
SUBSCRIPTIONS = (
    "subscriptions",
    "subscription_topics",
    "subscription_positions",
    "held_records",
    "subscription_counts",
)
SCHEMAS = ("schemas", "schema_versions", "schema_rules")
VISIBLE = (
    *("messages", "threads", "thread_turns", "events", "parked", "counters", "stat_rows"),
    *TOPICS,
    *SUBSCRIPTIONS,
    *SCHEMAS,
    *("store_items", "instances"),
)
VIEWS = (
    *("message_overview", "thread_overview", "queue_counts", "topic_overview", "subscription_overview"),
    *("schema_overview", "stats", "store_overview", "instance_overview"),
)


async def test_it_sees_no_row_of_another_tenant(acme: Connection, other: UUID, subtests: pytest.Subtests) -> None:
    for name in VISIBLE + VIEWS:
        with subtests.test(name):
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


# Functions that read for a tenant
READERS = {
    "read_log": "select * from treadle.read_log('{other}', 0, 10, 1000, tenant => {tenant})",
    "queue_list": "select queue, queued, ready from treadle.queue_list({tenant})",
    "dead_letter_page": "select * from treadle.dead_letter_page('default', 10, tenant => {tenant})",
    "read_stats": "select submitted from treadle.read_stats({tenant}, now() - interval '1 hour', now(), 3600)",
    "find_messages": "select * from treadle.find_messages(tenant => {tenant})",
    "find_threads": "select thread_id from treadle.find_threads('t', tenant => {tenant})",
    "explain": "select * from treadle.explain('{other}', tenant => {tenant})",
}


async def test_functions_read_for_its_tenant_only(sql_client: SqlClient, acme: Connection, other: UUID) -> None:
    """Without a tenant's name, or with null, which is all tenants to an operator, it is its own."""
    await sql_client.run(outcome="rejected")
    await sql_client.sql.execute("select treadle.fold_counters()")
    nothing = {"queue_list": [("default", 0, 0)], "find_messages": [([], None)]}
    for name, query in READERS.items():
        with pytest.raises(REFUSED, match="may not act for the tenant"):
            await acme.fetch(query.format(other=other, tenant="'other'"))
        for tenant in ("'acme'", "'default'", "null"):
            found: list[tuple[Any, ...]] = []
            with contextlib.suppress(asyncpg.PostgresError):  # there is no such message
                found = await rows_of(acme, query.format(other=other, tenant=tenant))
            assert found == nothing.get(name, []), (name, tenant)


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
    "select treadle.grown_logs(array[treadle.uuid7()], null, array[0])",
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


async def test_no_catalog_names_another_tenant(sql_client: SqlClient, acme: Connection) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('unheard'), treadle.submit('x', tenant => 'unheard')")
    await sql_client.sql.execute("analyze")
    found = []
    for [name] in await rows_of(acme, "select relname from pg_class where relnamespace = 'pg_catalog'::regnamespace"):
        with contextlib.suppress(asyncpg.PostgresError):  # it may not read each of them
            found += await acme.fetch(
                f"select t::text from pg_catalog.{name} t where t::text like '%' || $1", "unheard%"
            )
    assert found == []


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
