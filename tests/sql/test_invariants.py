"""treadle.violations: each rule finds its exceptions."""

import contextlib
import re
from collections.abc import AsyncIterator

import pytest

from service.db.pool import Connection
from service.db.schema import SQL_FOLDER
from tests.support.invariants import assert_consistent, violations
from tests.support.sql_client import SqlClient
from tests.support.topic_calls import Topics

DAMAGES = [
    ("A log is dense", "delete from treadle.events where seq = 2"),
    ("A log is dense", "update treadle.messages set last_seq = last_seq + 1 where state = 'completed'"),
    ("A log is dense", "update treadle.leases set last_seq = last_seq + 1"),
    (
        "An event belongs",
        "insert into treadle.events (tenant, message_id, seq, type, created_at)"
        " select 'default', treadle.uuid7(), 1, 'x', now()",
    ),
    (
        "Trash is no longer",
        "insert into treadle.trash (tenant, message_id, last_seq)"
        " select tenant, message_id, last_seq from treadle.messages limit 1",
    ),
    (
        "The size of a store",
        "insert into treadle.store_sizes (tenant, owner, items, bytes) values ('default', 'x', 1, 1)",
    ),
    ("The stores of a tenant", "insert into treadle.store_totals (tenant, bytes) values ('default', 5)"),
    ("Trash is no longer", "insert into treadle.trash values (treadle.uuid7(), 'default', 1)"),
    ("An event belongs", "update treadle.events set thread = null, thread_pos = null where thread_pos = 1"),
    ("A thread's log is dense", "update treadle.events set thread_pos = thread_pos + 100 where thread_pos = 3"),
    ("A thread's log is dense", "update treadle.thread_log set last_pos = last_pos + 1, era = (last_pos + 1) / 16"),
    ("A thread's log is dense", "delete from treadle.thread_log"),
    ("A thread's log belongs", "insert into treadle.thread_log (tenant, thread, last_pos) values ('default', 99, 0)"),
    (
        "In a thread's log, each",
        "update treadle.events e set thread_pos = f.thread_pos from treadle.events f where f.message_id = e.message_id"
        " and e.thread is not null and e.seq in (1, 2) and f.seq = 3 - e.seq",
    ),
    ("Each life has one", "update treadle.events set type = 'chunk' where type = 'done'"),
    ("Each life has one", "update treadle.events set type = 'cancelled' where type = 'chunk'"),
    ("Each life has one", "update treadle.events set type = 'queued' where type = 'chunk'"),
    ("Every attempt has its", "update treadle.messages set attempt = attempt + 1 where state = 'completed'"),
    ("Every attempt has its", "update treadle.events set type = 'retry' where type = 'chunk'"),
    ("A message that may run or runs", "delete from pgmq.q_default_normal where vt <= now()"),
    ("A message that may run or runs", "delete from pgmq.q_default_normal where vt > now()"),
    ("A message that may run or runs", "update pgmq.q_default_normal set message = message - 'agent'"),
    ("Every lane row belongs", "select pgmq.send('default_low', message) from pgmq.q_default_normal"),
    ("Every lane row belongs", "select pgmq.send('default_high', '{}')"),
    ("Every lane row belongs", "select pgmq.send('default_dlq', '{}')"),
    ("The lane row of a message that may run", "update pgmq.q_default_normal set vt = now() + interval '1 hour'"),
    ("The lane row of a message that may run", "update pgmq.q_default_normal set vt = now()"),
    ("A message has a lease", "delete from treadle.leases"),
    ("A message has a lease", "update treadle.leases set worker_id = 'other'"),
    (
        "A message has a lease",
        "insert into treadle.leases (tenant, message_id, lease, worker_id, last_seq, claimed_at, expires_at)"
        " select tenant, message_id, message_id, 'w', 1, now(), now()"
        " from treadle.messages where state = 'completed' limit 1",
    ),
    ("A result exists", "update treadle.messages set result = '1' where state = 'queued'"),
    ("A result exists", "update treadle.messages set started_at = null where state = 'completed'"),
    ("The counters of each tenant", "delete from treadle.counters"),
    (
        "The counters of each tenant",
        "insert into treadle.counters (tenant, queue, slot, failed) values ('default', 'default', now(), 1)",
    ),
    (
        "The counters of each tenant",
        "insert into treadle.counters (tenant, queue, slot, queued) values ('default', 'other', now(), 1)",
    ),
    ("The counters of each tenant", "update treadle.counters set tenant = 'other'"),
    ("Messages that failed or were cancelled", "delete from treadle.not_completed"),
    (
        "Messages that failed or were cancelled",
        "insert into treadle.not_completed select tenant, 'cancelled', message_id from treadle.messages",
    ),
    ("What belongs to a message", "update treadle.events set tenant = 'other' where type = 'chunk'"),
    ("What belongs to a message", "update treadle.leases set tenant = 'other'"),
    (
        "A message has the tenant",
        "update treadle.messages m set parent = p.message_id, tenant = 'other'"
        " from treadle.messages p where p.state = 'completed' and m.state = 'failed'",
    ),
    ("What belongs to a thread", "update treadle.thread_turns set tenant = 'other'"),
    ("What belongs to a thread", "update treadle.thread_log set tenant = 'other'"),
    ("A message in a thread has the owner", "update treadle.threads set owner = 'ada'"),
    ("A thread names the agents", "update treadle.threads set agents = '{other}'"),
    ("The tenant of a message exists", "delete from treadle.tenants"),
    ("What belongs to a thread", "update treadle.messages set tenant = 'other' where hold = 'thread'"),
    ("A thread's counts", "update treadle.thread_turns set completed = completed + 1"),
    ("A thread's counts", "update treadle.thread_turns set last_ord = last_ord + 1"),
    ("A thread's counts", "delete from treadle.thread_turns"),
    ("A thread's counts", "update treadle.messages set ord = 7 where ord = 1"),
    ("A message's thread exists", "delete from treadle.threads"),
    ("The turn belongs", "update treadle.thread_turns set turn = treadle.uuid7()"),
    (
        "The turn belongs",
        "update treadle.thread_turns set turn = message_id from treadle.messages where hold = 'thread'",
    ),
    ("Only messages that take turns", "update treadle.thread_turns set next_normal = 1000"),
    ("Turns belong", "insert into treadle.thread_turns (tenant, thread, last_activity) values ('default', 99, now())"),
    ("In a thread only", "update treadle.thread_turns set turn = null"),
    ("In a thread only", "update treadle.messages set hold = 'backoff' where hold = 'thread'"),
    ("Only messages that take turns", "update treadle.messages set aside = true where hold = 'thread'"),
    (
        "A message that waits for children",
        "insert into treadle.parked (tenant, message_id, children) select tenant, message_id, '{}'"
        " from treadle.messages where state = 'processing'",
    ),
    ("A message that waits for children", "update treadle.messages set hold = 'children' where hold = 'thread'"),
    ("Failures and losses", "update treadle.messages set failures = max_attempts where state = 'queued'"),
    ("Failures and losses", "update treadle.messages set losses = 2 where state = 'processing'"),
    ("No visible row lies below", "update treadle.low_water set low = 1000 where name like 'q_%'"),
    ("No lease lies below", "update treadle.low_water set low = 1000 where name = 'leases'"),
    ("The offsets of a topic", 'delete from treadle.topic_log where "offset" = 0'),
    ("The offsets of a topic", "update treadle.topic_ends set next_offset = next_offset + 1"),
    ("The offsets of a topic", "delete from treadle.topic_ends"),
    ("What has an offset", "delete from treadle.records where key = 'k'"),
    ("What has an offset", "update treadle.records set tenant = 'other' where key = 'k'"),
    ("A record has one offset", "delete from pgmq.q_treadle_inbox"),
    (
        "A record has one offset",
        """insert into treadle.topic_log (topic, "offset", tenant, record_id) """
        """select topic, "offset" + 100, tenant, record_id from treadle.topic_log""",
    ),
    ("What waits in the inbox", "delete from treadle.records where key is null"),
    ("No row of the inbox", "update treadle.low_water set low = 1000 where name = 'inbox'"),
    ("A position lies", "update treadle.subscription_positions set next_offset = next_offset + 100"),
    (
        "A position lies",
        "insert into treadle.subscription_positions select subscription, topic, version + 1, tenant, 0, 0"
        " from treadle.subscription_positions",
    ),
    ("A subscription has a position", "delete from treadle.subscription_positions"),
    ("A subscription counts its open", "delete from treadle.subscription_counts"),
    ("A subscription counts the records", "update treadle.subscriptions set held = 1"),
    (
        "A record has at most one open",
        "update treadle.messages m set (subscription, record_topic, record_offset) = (select d.subscription,"
        " d.record_topic, d.record_offset from treadle.messages d where d.subscription is not null limit 1)"
        " where m.subscription is null and m.state = 'queued'",
    ),
    ("No count of a subscription", "update treadle.low_water set low = 1000 where name = 'subscription_counts'"),
    ("No counter lies below", "update treadle.low_water set low = 1000 where name = 'counters'"),
]


@pytest.fixture
async def sql_client(sql: Connection, dsn: str) -> AsyncIterator[SqlClient]:
    """With one message of each kind: completed, failed, running, ready, and waiting in a thread; and two records, one
    of them delivered."""
    async with contextlib.AsyncExitStack() as stack:
        sql_client = SqlClient(sql, dsn, stack)
        await sql_client.register()
        await sql_client.submit(thread_id="t")
        await sql_client.run(chunks=["a", "b"])
        await sql_client.submit()
        await sql_client.run(outcome="rejected")
        await sql_client.submit(thread_id="t")
        await sql_client.claim()
        await sql_client.submit(thread_id="t")
        await sql_client.submit()
        topics = Topics(sql_client)
        await topics.create("t")
        await topics.subscribe()
        await topics.publish("t", {"value": 1, "key": "k"})
        await topics.route()
        await topics.publish("t", 2)  # not sequenced
        yield sql_client


async def test_a_healthy_database_has_no_violation(sql_client: SqlClient) -> None:
    await assert_consistent(sql_client.sql)


async def test_every_damage_is_found(sql_client: SqlClient) -> None:
    for rule, damage in DAMAGES:
        transaction = sql_client.sql.transaction()
        await transaction.start()
        await sql_client.sql.execute(damage)
        found = await violations(sql_client.sql)
        await transaction.rollback()
        assert any(known.startswith(rule) for known in found), (damage, list(found))
    await assert_consistent(sql_client.sql)


async def test_a_violation_is_reported(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("delete from treadle.counters")
    with pytest.raises(AssertionError, match="The counters of each tenant"):
        await assert_consistent(sql_client.sql)


def test_every_rule_is_tried() -> None:
    files = [path.read_text(encoding="utf-8") for path in SQL_FOLDER.glob("9*_violations.sql")]
    rules = re.findall(r"^select '([A-Z](?:[^']|'')*)',", "".join(files), re.MULTILINE)
    assert len(rules) > 20
    assert [rule for rule in rules if not any(rule.replace("''", "'").startswith(tried) for tried, _ in DAMAGES)] == []


async def test_the_view_reads_through_a_function_that_switches_jit_off(sql_client: SqlClient) -> None:
    """With jit = on, the default of PostgreSQL 15 to 17, to compile its queries takes seconds."""
    (plan,) = await sql_client.sql.fetch("explain (costs off) table treadle.violations")
    assert plan[0] == "Function Scan on _violations v"
    settings = await sql_client.sql.fetchval("select proconfig from pg_proc where proname = '_violations'")
    assert "jit=off" in settings
