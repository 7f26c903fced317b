"""Retention: messages and threads past their time are deleted, and a deleted thread leaves nothing."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row
from tests.support.waiting import LIMIT_SECONDS

DAY = 86400


async def number(sql_client: SqlClient, query: str, *arguments: Any) -> int:
    return int(await sql_client.sql.fetchval(query, *arguments))


# Retention


async def purge(sql_client: SqlClient, hours: float = 24, dead_hours: float = 48, quantity: int = 500) -> list[int]:
    """Calls purge until it has looked at everything; returns how many each call deleted."""
    after, purged = None, []
    while True:
        row = await fetch_row(
            sql_client.sql, "select * from treadle.purge($1, $2, $3, $4)", hours, dead_hours, after, quantity
        )
        purged.append(row["purged"])
        if row["last"] is None:
            return purged
        after = row["last"]


async def there(sql_client: SqlClient, *ids: UUID) -> list[bool]:
    rows = await sql_client.sql.fetch("select message_id from treadle.messages")
    known = {row["message_id"] for row in rows}
    return [id in known for id in ids]


async def test_messages_without_a_thread_are_purged_by_completion_and_failed_ones_later(sql_client: SqlClient) -> None:
    completed = await sql_client.submit()
    await sql_client.run()
    failed = await sql_client.submit()
    await sql_client.run(outcome="rejected")
    cancelled, queued, delayed = (
        await sql_client.submit(),
        await sql_client.submit(),
        await sql_client.submit(delay_seconds=40 * DAY),
    )
    await sql_client.cancel(cancelled)
    late = await sql_client.submit(priority="high")
    (running,) = await sql_client.claim()
    assert running.message_id == late
    ids = (completed, failed, cancelled, queued, delayed, late)
    assert sum(await purge(sql_client)) == 0
    await sql_client.shift_clock(23 * 3600)
    assert sum(await purge(sql_client)) == 0
    await sql_client.shift_clock(25 * 3600)
    assert sum(await purge(sql_client)) == 2
    assert await there(sql_client, *ids) == [False, True, False, True, True, True]
    await sql_client.finish(running)  # it was submitted long ago, and completed now
    assert sum(await purge(sql_client)) == 0
    await assert_consistent(sql_client.sql)
    await sql_client.shift_clock(48.5 * 3600)
    assert sum(await purge(sql_client)) == 1
    assert await there(sql_client, *ids) == [False, False, False, True, True, True]
    assert await sql_client.lane("dlq") == []
    await sql_client.shift_clock(50 * 3600)
    assert sum(await purge(sql_client)) == 1
    assert await there(sql_client, *ids) == [False, False, False, True, True, False]


async def test_dead_letters_may_have_the_shorter_retention(sql_client: SqlClient) -> None:
    completed = await sql_client.submit()
    await sql_client.run()
    failed = await sql_client.submit()
    await sql_client.run(outcome="rejected")
    await sql_client.shift_clock(13 * 3600)
    assert sum(await purge(sql_client, 24, 12)) == 1
    assert await there(sql_client, completed, failed) == [True, False]


async def test_a_thread_is_purged_whole_by_its_last_activity(sql_client: SqlClient) -> None:
    first = await sql_client.submit(thread_id="t")
    await sql_client.run()
    await sql_client.shift_clock(20 * 3600)
    second = await sql_client.submit(thread_id="t")
    aside = await sql_client.submit(thread_id="t", aside=True)
    await sql_client.run()
    await sql_client.shift_clock(43 * 3600)
    assert sum(await purge(sql_client)) == 0
    assert await there(sql_client, first, second, aside) == [True, True, True]
    await sql_client.shift_clock(45 * 3600)
    assert sum(await purge(sql_client)) == 3
    for table in ("messages", "threads", "thread_turns", "thread_log", "events"):
        assert await number(sql_client, f"select count(*) from treadle.{table}") == 0
    new = await sql_client.submit(thread_id="t")  # the same name again is a new thread
    assert (await sql_client.message(new))["ord"] == 1


@pytest.mark.parametrize("kind", ["queued", "delayed", "backoff", "processing"])
async def test_a_thread_with_an_open_message_is_kept(sql_client: SqlClient, kind: str) -> None:
    done = await sql_client.submit(thread_id="t")
    await sql_client.run()
    await sql_client.submit(thread_id="t", delay_seconds=40 * DAY if kind == "delayed" else 0)
    if kind == "processing":
        await sql_client.claim()
    elif kind == "backoff":
        await sql_client.run(outcome="error", delay=40 * DAY)
    await sql_client.shift_clock(30 * DAY)
    assert sum(await purge(sql_client)) == 0
    assert await there(sql_client, done) == [True]


async def test_a_thread_is_kept_while_a_parent_of_its_messages_is_open(sql_client: SqlClient) -> None:
    """The parent may still ask for the result."""
    parent = await sql_client.submit(priority="high")
    claim = await sql_client.claim_one()
    child = await sql_client.submit(parent=str(parent), thread_id="t")
    await sql_client.run()
    await sql_client.shift_clock(30 * DAY)
    assert sum(await purge(sql_client)) == 0
    assert await there(sql_client, child) == [True]
    await sql_client.finish(claim)
    assert sum(await purge(sql_client)) == 1
    assert await there(sql_client, child) == [False]


async def test_a_thread_with_a_dead_letter_is_kept_as_long_as_dead_letters(sql_client: SqlClient) -> None:
    ids = []
    for outcome in ("completed", "rejected"):
        ids.append(await sql_client.submit(thread_id="t"))
        await sql_client.run(outcome=outcome)
    await sql_client.shift_clock(47 * 3600)
    assert sum(await purge(sql_client)) == 0
    await sql_client.shift_clock(49 * 3600)
    assert sum(await purge(sql_client)) == 2
    assert await sql_client.lane("dlq") == []


async def test_idempotency_keys_are_purged_after_a_day(sql_client: SqlClient) -> None:
    await sql_client.sql.execute("select treadle.submit_once('k', '1', '[{\"message\": \"x\"}]')")
    await sql_client.shift_clock(23 * 3600)
    await purge(sql_client)
    assert await number(sql_client, "select count(*) from treadle.idempotency") == 1
    await sql_client.shift_clock(25 * 3600)
    await purge(sql_client)
    assert await number(sql_client, "select count(*) from treadle.idempotency") == 0


async def test_purge_resumes_where_it_stopped(sql_client: SqlClient) -> None:
    await sql_client.submit_many(*[{}] * 10)
    await sql_client.run()
    await sql_client.submit_many(*[{"thread_id": f"t{n}"} for n in range(30)])
    await sql_client.run()
    await sql_client.shift_clock(2 * DAY)
    purged = await purge(sql_client, quantity=4)
    assert sum(purged) == 40
    assert max(purged) <= 4 + 20  # at most that many messages by themselves, and twenty threads


async def test_purging_waits_for_no_lock(sql_client: SqlClient) -> None:
    locked, free = await sql_client.submit(), await sql_client.submit()
    held = await sql_client.submit(thread_id="t")
    await sql_client.run()
    await sql_client.shift_clock(2 * DAY)
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await other.sql.execute("select from treadle.threads for update")
        await sql_client.limit_lock_waits()
        assert sum(await purge(sql_client)) == 1
        assert await there(sql_client, locked, free, held) == [True, False, True]
    assert sum(await purge(sql_client)) == 2


# Deleting a thread


async def test_a_deleted_thread_leaves_nothing_behind(sql_client: SqlClient) -> None:
    dead = await sql_client.submit(thread_id="t", max_attempts=1)
    await sql_client.run(outcome="error")
    running = await sql_client.submit(thread_id="t")
    (claim,) = await sql_client.claim()
    for fields in ({}, {}, {"aside": True}, {"delay_seconds": 9}):
        await sql_client.submit(thread_id="t", **fields)
    other = await sql_client.submit(thread_id="u")
    listener = await sql_client.connect()
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for channel in ("treadle_cancel", "treadle_events"):
        await listener.sql.add_listener(channel, lambda _c, _p, channel, payload: heard.put_nowait((channel, payload)))
    assert await number(sql_client, "select treadle.delete_thread('t')") == 6
    async with asyncio.timeout(LIMIT_SECONDS):
        hints = dict([await heard.get(), await heard.get()])
    assert hints["treadle_cancel"] == str(running)
    named = {item.partition(":")[0] for item in hints["treadle_events"].split(",")}
    assert len(named) == 6
    assert {str(dead), str(running)} <= named
    await listener.sql.reset()
    assert await there(sql_client, dead, running, other) == [False, False, True]
    assert await sql_client.lane("dlq") == []
    assert await sql_client.lanes() == [[], [other], []]
    assert await sql_client.heartbeat("w", claim) == {running: "lost"}
    await assert_consistent(sql_client.sql)
    assert (await sql_client.message(await sql_client.submit(thread_id="t")))["ord"] == 1


async def test_a_thread_is_deleted_under_a_claim(sql_client: SqlClient) -> None:
    """The claim commits while the deletion waits for its message; both leave nothing behind."""
    await sql_client.submit(thread_id="t")
    other = await sql_client.connect()
    async with other.sql.transaction():
        (claim,) = await other.claim()
        deleting = asyncio.create_task(persist(lambda: number(sql_client, "select treadle.delete_thread('t')")))
        await (await sql_client.connect()).until_blocked(sql_client)
    assert await deleting == 1
    await assert_consistent(sql_client.sql)
    assert await sql_client.finish(claim) == ["lost"]


async def test_a_thread_is_deleted_under_a_submit(sql_client: SqlClient) -> None:
    """The submit waits and then creates the thread again."""
    await sql_client.submit(thread_id="t")
    other = await sql_client.connect()
    async with other.sql.transaction():
        assert await number(other, "select treadle.delete_thread('t')") == 1
        submitting = asyncio.create_task(sql_client.submit(thread_id="t"))
        await (await sql_client.connect()).until_blocked(sql_client)
    assert (await sql_client.message(await submitting))["ord"] == 1


@pytest.mark.parametrize("hours", [500_000, 1e9, 1e300, float("inf")])
async def test_an_endless_retention_keeps_everything(sql_client: SqlClient, hours: float) -> None:
    """A retention beyond the range of ids or timestamps: purge looks at nothing."""
    await sql_client.submit()
    await sql_client.run()
    assert await purge(sql_client, hours, hours) == [0]
    assert sum(await purge(sql_client, hours, 0)) == 0
