"""What a tenant creates is bounded in number: topics, subscriptions, keys, webhooks."""

import asyncpg
import pytest

from tests.support.sql_client import SqlClient

END_TOPICS = (
    "insert into treadle.topic_ends (topic, tenant)"
    " select t.id, t.tenant from treadle.topics t where t.id not in (select e.topic from treadle.topic_ends e)"
)
FILL = {
    "webhooks": (
        49,
        "insert into treadle.webhooks"
        " (webhook_id, tenant, url, events, format, description, enabled, secrets, created_at)"
        " select treadle.uuid7(), 'default', url, events, format, description, enabled, secrets, created_at"
        " from treadle.webhooks, generate_series(1, {})",
        "create_webhook('http://example.com', '{{message.failed}}')",
    ),
    "topics": (
        9_999,
        "insert into treadle.topics (tenant, topic, max_record_bytes, created_at)"
        " select 'default', 'n' || n, 1, now() from generate_series(1, {}) n",
        "create_topic('{}')",
    ),
    "subscriptions": (
        999,
        "insert into treadle.subscriptions (tenant, subscription, topics, agent, delivery, max_in_flight, created_at)"
        " select 'default', 'n' || n, '{{none}}', 'echo', 'at_least_once', 1, now() from generate_series(1, {}) n",
        "create_subscription('{}', '{{none}}', 'echo')",
    ),
    "keys": (
        999,
        "insert into treadle.keys (key_id, tenant, secret_hash, scopes, created_at, created_by)"
        " select lpad(n::text, 12, 'k'), 'default', sha256(''), '{{read}}', now(), 'a test'"
        " from generate_series(1, {}) n",
        "create_key(lpad('{}', 12, 'x'), sha256(''), 'default', '', '{{read}}')",
    ),
}


@pytest.mark.parametrize("what", FILL)
async def test_a_tenant_creates_so_many(sql_client: SqlClient, what: str) -> None:
    others, fill, create = FILL[what]
    sql = sql_client.sql
    await sql.execute(f"select treadle.{create.format('a')}")
    await sql.execute(fill.format(others))
    with pytest.raises(
        asyncpg.PostgresError, match=f"A tenant has at most {others + 1} {what}: (delete|revoke) one"
    ) as many:
        await sql.execute(f"select treadle.{create.format('b')}")
    assert many.value.sqlstate == "TR409"
    assert await sql.fetchval(f"select count(*) from treadle.{what}") == others + 1
    await sql.execute(END_TOPICS)


async def test_a_key_takes_the_place_of_one_that_has_ended(sql_client: SqlClient) -> None:
    sql = sql_client.sql
    others, fill, create = FILL["keys"]
    await sql.execute(fill.format(others + 1))
    await sql.execute("select treadle.revoke_key('kkkkkkkkkk77')")
    await sql.execute(f"select treadle.{create.format('b')}")
    assert await sql.fetchval("select count(*) from treadle.keys where key_id = 'kkkkkkkkkk77'") == 0
    with pytest.raises(asyncpg.PostgresError, match="A tenant has at most 1000 keys: revoke one"):
        await sql.execute(f"select treadle.{create.format('c')}")
    await sql.execute("select treadle.create_tenant('acme')")
    await sql.execute(f"select treadle.{create.replace('default', 'acme').format('c')}")


async def test_a_tenant_that_has_all_changes_those_that_exist(sql_client: SqlClient) -> None:
    sql = sql_client.sql
    for what in ("topics", "subscriptions"):
        others, fill, _ = FILL[what]
        await sql.execute(fill.format(others + 1))
    await sql.execute(END_TOPICS)
    assert await sql.fetchval("select treadle.create_topic('n5', 24)") == "changed"
    assert await sql.fetchval("select treadle.create_subscription('n5', '{other}', 'echo')") == "changed"
