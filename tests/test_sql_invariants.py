"""The invariants themselves: each finds what it is there to find."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from invariants import EXCEPTIONS, assert_consistent, exceptions
from loom import Loom

from service.db.pool import Connection

DAMAGES = [
    ("a log is dense", "delete from treadle.events where seq = 2"),
    ("a log is dense", "update treadle.messages set last_seq = last_seq + 1 where state = 'completed'"),
    ("a log is dense", "update treadle.leases set last_seq = last_seq + 1"),
    (
        "an event belongs",
        "insert into treadle.events (message_id, seq, type, created_at) select treadle.uuid7(), 1, 'x', now()",
    ),
    ("an event belongs", "update treadle.events set thread = null, thread_pos = null where thread_pos = 1"),
    ("a thread's log is dense", "update treadle.events set thread_pos = thread_pos + 100 where thread_pos = 3"),
    ("a thread's log is dense", "update treadle.thread_log set last_pos = last_pos + 1"),
    ("a thread's log is dense", "delete from treadle.thread_log"),
    ("a thread's log belongs", "insert into treadle.thread_log (thread, last_pos) values (99, 0)"),
    (
        "in a thread's log, each message's events",
        "update treadle.events e set thread_pos = f.thread_pos from treadle.events f where f.message_id = e.message_id"
        " and e.thread is not null and e.seq in (1, 2) and f.seq = 3 - e.seq",
    ),
    ("one terminal event a life", "update treadle.events set type = 'chunk' where type = 'done'"),
    ("one terminal event a life", "update treadle.events set type = 'cancelled' where type = 'chunk'"),
    ("one terminal event a life", "update treadle.events set type = 'queued' where type = 'chunk'"),
    ("every attempt has its", "update treadle.messages set attempt = attempt + 1 where state = 'completed'"),
    ("every attempt has its", "update treadle.events set type = 'retry' where type = 'chunk'"),
    ("every runnable or running", "delete from pgmq.q_default_normal where vt <= now()"),
    ("every runnable or running", "delete from pgmq.q_default_normal where vt > now()"),
    ("every runnable or running", "delete from pgmq.q_default_dlq"),
    ("every runnable or running", "update pgmq.q_default_normal set message = message - 'agent'"),
    ("no lane row is astray", "select pgmq.send('default_low', message) from pgmq.q_default_normal"),
    ("no lane row is astray", "select pgmq.send('default_high', '{}')"),
    ("no lane row is astray", "select pgmq.send('default_dlq', '{}')"),
    ("what may run is visible", "update pgmq.q_default_normal set vt = now() + interval '1 hour'"),
    ("what may run is visible", "update pgmq.q_default_normal set vt = now()"),
    ("leases are there", "delete from treadle.leases"),
    ("leases are there", "update treadle.leases set worker_id = 'other'"),
    (
        "leases are there",
        "insert into treadle.leases select message_id, 'default', message_id, 'w', null, 1, false, now(), now()"
        " from treadle.messages where state = 'completed' limit 1",
    ),
    ("a result is there", "update treadle.messages set result = '1' where state = 'queued'"),
    ("a result is there", "update treadle.messages set started_at = null where state = 'completed'"),
    ("counters add up", "delete from treadle.counters"),
    ("counters add up", "insert into treadle.counters (queue, slot, failed) values ('default', now(), 1)"),
    ("counters add up", "insert into treadle.counters (queue, slot, queued) values ('other', now(), 1)"),
    ("a thread's counts", "update treadle.threads set completed = completed + 1"),
    ("a thread's counts", "update treadle.threads set last_ord = last_ord + 1"),
    ("a thread's counts", "update treadle.messages set ord = 7 where ord = 1"),
    ("a message's thread is there", "delete from treadle.threads"),
    ("a turn is held", "update treadle.threads set turn = treadle.uuid7()"),
    ("a turn is held", "update treadle.threads t set turn = message_id from treadle.messages where hold = 'thread'"),
    ("in a thread only the message", "update treadle.threads set turn = null"),
    ("in a thread only the message", "update treadle.messages set hold = 'backoff' where hold = 'thread'"),
    ("only messages of a thread that take turns", "update treadle.messages set aside = true where hold = 'thread'"),
    ("failures and losses", "update treadle.messages set failures = max_attempts where state = 'queued'"),
    ("failures and losses", "update treadle.messages set losses = 2 where state = 'processing'"),
]


@pytest.fixture
async def loom(sql: Connection, dsn: str) -> AsyncIterator[Loom]:
    """Something of everything: completed, failed, running, ready, and waiting in a thread."""
    async with contextlib.AsyncExitStack() as stack:
        loom = Loom(sql, dsn, stack)
        await loom.register()
        await loom.submit(thread_id="t")
        await loom.run(chunks=["a", "b"])
        await loom.submit()
        await loom.run(outcome="rejected")
        await loom.submit(thread_id="t")
        await loom.claim()
        await loom.submit(thread_id="t")
        await loom.submit()
        yield loom


async def test_there_are_none_to_begin_with(loom: Loom) -> None:
    await assert_consistent(loom.sql)


async def test_every_damage_is_found(loom: Loom) -> None:
    for sentence, damage in DAMAGES:
        transaction = loom.sql.transaction()
        await transaction.start()
        await loom.sql.execute(damage)
        found = await exceptions(loom.sql)
        await transaction.rollback()
        assert any(known.startswith(sentence) for known in found), (damage, list(found))
    await assert_consistent(loom.sql)


async def test_what_is_found_is_told(loom: Loom) -> None:
    await loom.sql.execute("delete from treadle.counters")
    with pytest.raises(AssertionError, match="it does not hold that counters add up"):
        await assert_consistent(loom.sql)


def test_every_invariant_is_tried() -> None:
    untried = [known for known in EXCEPTIONS if not any(known.startswith(sentence) for sentence, _ in DAMAGES)]
    assert untried == []
