"""The deletion of a tenant: in chunks, by any process, and without a trace."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL

import asyncpg
import pytest

from service.db.pool import Connection
from tests.support.cli_runner import Cli
from tests.support.databases import patient
from tests.support.invariants import assert_consistent
from tests.support.sql_calls import be_patient
from tests.support.sql_client import SqlClient
from tests.support.tenant_walk import submit, walk
from tests.support.topic_calls import Topics
from tests.support.waiting import until

OWNED = (
    *("messages", "threads", "thread_turns", "thread_log", "events", "leases", "parked", "trash", "counters"),
    *("idempotency", "keys", "sql_roles", "tenants", "topics", "topic_ends", "topic_log", "records"),
    *("subscriptions", "subscription_topics", "subscription_positions", "subscription_counts"),
    *("schemas", "schema_versions", "schema_rules", "schema_ends"),
    *("webhooks", "webhook_outcomes", "callback_secrets", "push_configs", "not_completed", "store_items"),
    *("store_sizes", "store_totals", "held_records", "instances", "lane_shares", "lane_surplus", "stat_rows"),
    *("tenant_use", "late_cancels", "late_charges", "late_events"),
)
KEPT = {"audit"}  # with the acts on the tenant itself


@pytest.fixture
async def two_tenants(sql_client: SqlClient) -> SqlClient:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    for tenant in ("default", "acme"):
        await walk(sql_client, tenant)
        await sql_client.sql.execute(
            "select repeated from treadle.submit_once('k', 'x', '[{\"message\": \"x\"}]', tenant => $1)", tenant
        )
        made = await sql_client.sql.fetchval(
            "select webhook_id from treadle.create_webhook("
            "'https://example.com/', array['message.failed'], tenant => $1)",
            tenant,
        )
        await sql_client.sql.execute("select treadle.note_post($1, $1, 500, 'down', false, false)", made)
        await sql_client.sql.execute("select treadle.callback_secret($1)", tenant)
        await sql_client.sql.execute(
            """
            select treadle.use_store(jsonb_agg(jsonb_build_object(
                'op', 'put', 'namespace', array['n'], 'key', n::text, 'value', '{}'::jsonb)), tenant => $1)
            from generate_series(1, 7) n""",
            tenant,
        )
        push = "select treadle.set_push_config(m.message_id, 'p', 'https://example.com/', tenant => $1)"
        await sql_client.sql.execute(f"{push} from treadle.messages m where m.tenant = $1 and m.body = '\"x\"'", tenant)
    await Topics(sql_client).publish("t", "not sequenced", tenant="acme")
    return sql_client


async def rows_of(sql: Connection, tenant: str) -> dict[str, int]:
    return {
        table: await sql.fetchval(f"select count(*) from treadle.{table} where tenant = $1", tenant) for table in OWNED
    }


async def delete_all(sql: Connection, quantity: int = 2) -> int:
    """Delete chunk by chunk, as any process would; returns how many chunks it took."""
    for chunk in range(1, 200):
        await assert_consistent(sql)
        if await sql.fetchval("select gone from treadle.delete_tenant_chunk('acme', $1)", quantity):
            return chunk
    raise AssertionError("The tenant does not end.")


async def test_these_tests_read_every_table_with_a_tenant(sql: Connection) -> None:
    """A new table: delete its rows in treadle._delete_rest_of_tenant, and name it in OWNED."""
    tables = await sql.fetch(
        """
        select c.relname
        from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
        where c.relnamespace = 'treadle'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"""
    )
    assert set(OWNED) == {row["relname"] for row in tables} - KEPT


async def test_nothing_of_a_deleted_tenant_is_left(two_tenants: SqlClient) -> None:
    sql = two_tenants.sql
    await sql.execute("select treadle.delete_tenant('acme')")
    with pytest.raises(asyncpg.PostgresError, match="There is no tenant 'acme'"):
        await submit(two_tenants, "acme")
    others = await rows_of(sql, "default")
    await sql.execute("select treadle._delete_rest_of_tenant('acme', 2)")
    assert (await rows_of(sql, "acme"))["store_items"] == 5
    assert await delete_all(sql) > 3
    assert set((await rows_of(sql, "acme")).values()) == {0}
    assert await rows_of(sql, "default") == others
    lanes = await sql.fetch("select message ->> 'tenant' as tenant from pgmq.q_default_normal")
    assert {row["tenant"] for row in lanes} == {None}
    await sql.execute("select treadle.create_tenant('acme')")  # the name is free again
    await submit(two_tenants, "acme", thread_id="t")


async def test_the_deletion_ends_after_transactions_that_were_open(two_tenants: SqlClient) -> None:
    late = await two_tenants.connect()
    transaction = late.sql.transaction()
    await transaction.start()
    await submit(late, "acme", thread_id="late")
    await Topics(late).publish("t", "late", tenant="acme")
    await two_tenants.sql.execute("select treadle.delete_tenant('acme')")
    call = "select gone from treadle.delete_tenant_chunk('acme')"
    assert [await two_tenants.sql.fetchval(call) for _ in range(10)] == [False] * 10
    await transaction.commit()
    await delete_all(two_tenants.sql, 1000)
    assert set((await rows_of(two_tenants.sql, "acme")).values()) == {0}


async def test_one_process_at_a_time_deletes_a_tenant(two_tenants: SqlClient) -> None:
    await two_tenants.sql.execute("select treadle.delete_tenant('acme')")
    other = await two_tenants.connect()
    async with two_tenants.sql.transaction():
        assert await two_tenants.sql.fetchval("select deleted from treadle.delete_tenant_chunk('acme', 2)") > 0
        assert await other.sql.fetchval("select deleted from treadle.delete_tenant_chunk()") is None
    await delete_all(other.sql)
    assert await other.sql.fetchval("select deleted from treadle.delete_tenant_chunk('acme')") is None


async def test_a_deletion_that_is_killed_is_finished_by_the_next_process(
    two_tenants: SqlClient, dsn: str, cli: Cli
) -> None:
    """kill -9 in the middle of a chunk; then its session ends, too, so that the chunk is rolled back."""
    holder, watcher = await two_tenants.connect(), await two_tenants.connect()
    await be_patient(watcher.sql, "delete_tenant_chunk")
    transaction = holder.sql.transaction()
    await transaction.start()
    await holder.sql.execute(
        "select from treadle.messages where tenant = 'acme' and thread is not null limit 1 for update"
    )
    command = [sys.executable, "-m", "service.cli", "tenants", "delete", "acme", "--yes"]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "DATABASE_URL": patient(dsn)}, stderr=DEVNULL
    )
    blocked = "select pid from pg_stat_activity where $1 = any(pg_blocking_pids(pid))"
    pid = await until(lambda: watcher.sql.fetchval(blocked, holder.sql.get_server_pid()))
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    assert await watcher.sql.fetchval("select pg_terminate_backend($1, 5000)", pid)
    await transaction.rollback()
    left = await rows_of(watcher.sql, "acme")
    assert left["tenants"] == 1
    assert left["messages"] > 0
    await assert_consistent(watcher.sql)
    assert (await cli("tenants", "delete", "acme", "--yes")).exit_code == 0
    assert set((await rows_of(watcher.sql, "acme")).values()) == {0}


async def test_the_default_tenant_stays(sql_client: SqlClient) -> None:
    with pytest.raises(asyncpg.PostgresError, match="belongs to the installation"):
        await sql_client.sql.execute("select treadle.delete_tenant('default')")
    for call in ("delete_tenant('nowhere')", "suspend_tenant('nowhere')"):
        with pytest.raises(asyncpg.PostgresError, match="There is no tenant 'nowhere'"):
            await sql_client.sql.execute(f"select treadle.{call}")
    for name in ("", "A", "a b", "-a", "a" * 41):
        with pytest.raises(asyncpg.PostgresError, match="A tenant's name is"):
            await sql_client.sql.execute("select treadle.create_tenant($1)", name)
