"""How many topics the subscriptions of a tenant read, and what the health check and a scrape look at."""

import asyncpg
import pytest

from service.db.pool import Connection
from service.installation.model import MEASURED_SUBSCRIPTIONS
from service.installation.store import FIGURES, HEALTH
from tests.support.sql_rows import fetch_row

# Subscriptions to all topics; each topic has a record that none of them has received.
TOPICS = """
    insert into treadle.topics (tenant, topic, retention_hours, max_record_bytes, created_at)
    select 'acme', 't' || n, 1, 1000, now() from generate_series(1, $1::integer) n"""
ENDS = "insert into treadle.topic_ends (topic, tenant, next_offset) select t.id, t.tenant, 1 from treadle.topics t"
SUBSCRIPTIONS = """
    insert into treadle.subscriptions (tenant, subscription, topics, agent, delivery, max_in_flight, created_at)
    select 'acme', 's' || n, '{#}', 'echo', 'at_least_once', 1, now() from generate_series(1, $1::integer) n"""
PAIRS = """
    insert into treadle.subscription_topics (subscription, topic, tenant)
    select s.id, t.id, 'acme' from treadle.subscriptions s, treadle.topics t"""
PLACES = """
    insert into treadle.subscription_positions (subscription, topic, tenant, next_offset, fresh_offset)
    select j.subscription, j.topic, j.tenant, 0, 0 from treadle.subscription_topics j;
    analyze treadle.topics, treadle.subscriptions, treadle.subscription_topics, treadle.subscription_positions"""
READ = """
    select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint from pg_stat_xact_user_tables
    where relname in ('subscription_topics', 'subscription_positions', 'subscriptions')"""
SUBSCRIBE = "select treadle.create_subscription($1, $2, 'echo', tenant => 'acme')"


async def fill(sql: Connection, subscriptions: int, topics: int) -> None:
    await sql.execute("select treadle.create_tenant('acme')")
    await sql.execute(TOPICS, topics)
    await sql.execute(ENDS)
    await sql.execute(SUBSCRIPTIONS, subscriptions)
    await sql.execute(PAIRS)


async def test_the_subscriptions_of_a_tenant_read_a_bounded_number_of_topics(sql: Connection) -> None:
    await fill(sql, subscriptions=20, topics=5_000)
    for refused in (
        "select treadle.create_topic('more', tenant => 'acme')",
        "select treadle.create_subscription('more', '{t1}', 'echo', tenant => 'acme')",
    ):
        with pytest.raises(asyncpg.PostgresError, match="at most 100000 topics that its subscriptions") as raised:
            await sql.fetchval(refused)
        assert raised.value.sqlstate == "TR409"
    assert await sql.fetchval(SUBSCRIBE, "none", ["other.#"]) == "created"  # reads none yet
    assert await sql.fetchval(SUBSCRIBE, "s1", ["t1.#", "t2"]) == "changed"
    assert await sql.fetchval("select treadle.create_topic('more', tenant => 'acme')") == "created"
    assert await sql.fetchval(SUBSCRIBE, "s2", ["t1"]) == "changed"
    assert await sql.fetchval(SUBSCRIBE, "most", ["#"]) == "created"
    assert await sql.fetchval("select treadle.create_topic('t', tenant => 'default')") == "created"


async def test_health_reads_no_subscription_and_a_scrape_a_bounded_number(sql: Connection) -> None:
    await fill(sql, subscriptions=3, topics=5_000)
    await sql.execute("update treadle.subscriptions set held = 7 where subscription = 's3'")
    await sql.execute(PLACES)
    async with sql.transaction():
        before = await sql.fetchval(READ)
        assert (await fetch_row(sql, HEALTH))["records_waiting_seconds"] is None
        assert await sql.fetchval(READ) == before
        assert (await fetch_row(sql, FIGURES, MEASURED_SUBSCRIPTIONS))["records_undelivered"] == 10_007
        assert await sql.fetchval(READ) - before < 40_000
    await sql.execute("update treadle.subscriptions set paused = true where subscription <> 's2'")
    assert await sql.fetchval("select undelivered from treadle.router_health()") == 5_000
