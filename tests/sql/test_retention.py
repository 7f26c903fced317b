"""Retention: what is past its time goes, and a deleted thread with all it holds."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import Loom

DAY = 86400


async def number(loom: Loom, query: str, *arguments: Any) -> int:
    return int(await loom.sql.fetchval(query, *arguments))


# Retention


async def purge(loom: Loom, hours: float = 24, dead_hours: float = 48, quantity: int = 500) -> list[int]:
    """All the way through; returns how many each call deleted."""
    after, purged = None, []
    while True:
        row = await loom.sql.fetchrow("select * from treadle.purge($1, $2, $3, $4)", hours, dead_hours, after, quantity)
        purged.append(row["purged"])
        if row["last"] is None:
            return purged
        after = row["last"]


async def there(loom: Loom, *ids: UUID) -> list[bool]:
    rows = await loom.sql.fetch("select message_id from treadle.messages")
    known = {row["message_id"] for row in rows}
    return [id in known for id in ids]


async def test_standalone_messages_go_by_their_completion_and_dead_letters_later(loom: Loom) -> None:
    completed = await loom.submit()
    await loom.run()
    failed = await loom.submit()
    await loom.run(outcome="rejected")
    cancelled, queued, delayed = await loom.submit(), await loom.submit(), await loom.submit(delay_seconds=40 * DAY)
    await loom.cancel(cancelled)
    late = await loom.submit(priority="high")
    (running,) = await loom.claim()
    assert running.message_id == late
    ids = (completed, failed, cancelled, queued, delayed, late)
    assert sum(await purge(loom)) == 0
    await loom.shift(23 * 3600)
    assert sum(await purge(loom)) == 0
    await loom.shift(25 * 3600)
    assert sum(await purge(loom)) == 2
    assert await there(loom, *ids) == [False, True, False, True, True, True]
    await loom.finish(running)  # it was submitted long ago, and completed now
    assert sum(await purge(loom)) == 0
    await assert_consistent(loom.sql)
    await loom.shift(48.5 * 3600)
    assert sum(await purge(loom)) == 1
    assert await there(loom, *ids) == [False, False, False, True, True, True]
    assert await loom.lane("dlq") == []
    await loom.shift(50 * 3600)
    assert sum(await purge(loom)) == 1
    assert await there(loom, *ids) == [False, False, False, True, True, False]


async def test_dead_letters_may_also_go_first(loom: Loom) -> None:
    completed = await loom.submit()
    await loom.run()
    failed = await loom.submit()
    await loom.run(outcome="rejected")
    await loom.shift(13 * 3600)
    assert sum(await purge(loom, 24, 12)) == 1
    assert await there(loom, completed, failed) == [True, False]


async def test_a_thread_goes_whole_by_its_last_activity(loom: Loom) -> None:
    first = await loom.submit(thread_id="t")
    await loom.run()
    await loom.shift(20 * 3600)
    second = await loom.submit(thread_id="t")
    aside = await loom.submit(thread_id="t", aside=True)
    await loom.run()
    await loom.shift(43 * 3600)
    assert sum(await purge(loom)) == 0
    assert await there(loom, first, second, aside) == [True, True, True]
    await loom.shift(45 * 3600)
    assert sum(await purge(loom)) == 3
    for table in ("messages", "threads", "thread_log", "events"):
        assert await number(loom, f"select count(*) from treadle.{table}") == 0
    new = await loom.submit(thread_id="t")  # the same name again is a new thread
    assert (await loom.message(new))["ord"] == 1


@pytest.mark.parametrize("kind", ["queued", "delayed", "backoff", "processing"])
async def test_a_thread_with_something_open_stays(loom: Loom, kind: str) -> None:
    done = await loom.submit(thread_id="t")
    await loom.run()
    await loom.submit(thread_id="t", delay_seconds=40 * DAY if kind == "delayed" else 0)
    if kind == "processing":
        await loom.claim()
    elif kind == "backoff":
        await loom.run(outcome="error", delay=40 * DAY)
    await loom.shift(30 * DAY)
    assert sum(await purge(loom)) == 0
    assert await there(loom, done) == [True]


async def test_a_thread_with_a_dead_letter_stays_as_long_as_dead_letters_do(loom: Loom) -> None:
    ids = []
    for outcome in ("completed", "rejected"):
        ids.append(await loom.submit(thread_id="t"))
        await loom.run(outcome=outcome)
    await loom.shift(47 * 3600)
    assert sum(await purge(loom)) == 0
    await loom.shift(49 * 3600)
    assert sum(await purge(loom)) == 2
    assert await loom.lane("dlq") == []


async def test_idempotency_keys_go_after_a_day(loom: Loom) -> None:
    await loom.sql.execute("select treadle.submit_once('k', '1', '[{\"message\": \"x\"}]')")
    await loom.shift(23 * 3600)
    await purge(loom)
    assert await number(loom, "select count(*) from treadle.idempotency") == 1
    await loom.shift(25 * 3600)
    await purge(loom)
    assert await number(loom, "select count(*) from treadle.idempotency") == 0


async def test_purging_goes_on_from_where_it_stopped(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 10)
    await loom.run()
    await loom.submit_many(*[{"thread_id": f"t{n}"} for n in range(30)])
    await loom.run()
    await loom.shift(2 * DAY)
    purged = await purge(loom, quantity=4)
    assert sum(purged) == 40
    assert max(purged) <= 4 + 20  # at most that many messages by themselves, and twenty threads


async def test_purging_waits_for_nobody(loom: Loom) -> None:
    locked, free = await loom.submit(), await loom.submit()
    held = await loom.submit(thread_id="t")
    await loom.run()
    await loom.shift(2 * DAY)
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await other.sql.execute("select from treadle.threads for update")
        await loom.sql.execute("set lock_timeout = '1ms'")
        assert sum(await purge(loom)) == 1
        assert await there(loom, locked, free, held) == [True, False, True]
    assert sum(await purge(loom)) == 2


# Deleting a thread


async def test_a_deleted_thread_leaves_nothing_behind(loom: Loom) -> None:
    dead = await loom.submit(thread_id="t", max_attempts=1)
    await loom.run(outcome="error")
    running = await loom.submit(thread_id="t")
    (claim,) = await loom.claim()
    for fields in ({}, {}, {"aside": True}, {"delay_seconds": 9}):
        await loom.submit(thread_id="t", **fields)
    other = await loom.submit(thread_id="u")
    listener = await loom.connect()
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for channel in ("treadle_cancel", "treadle_events"):
        await listener.sql.add_listener(channel, lambda _c, _p, channel, payload: heard.put_nowait((channel, payload)))
    assert await number(loom, "select treadle.delete_thread('t')") == 6
    async with asyncio.timeout(20):
        assert {await heard.get(), await heard.get()} == {("treadle_cancel", str(running)), ("treadle_events", "*")}
    await listener.sql.reset()
    assert await there(loom, dead, running, other) == [False, False, True]
    assert await loom.lane("dlq") == []
    assert await loom.lanes() == [[], [other], []]
    assert await loom.beat("w", claim) == {running: "lost"}
    await assert_consistent(loom.sql)
    assert (await loom.message(await loom.submit(thread_id="t")))["ord"] == 1


async def test_a_thread_is_deleted_under_a_claim(loom: Loom) -> None:
    """The claim commits while the deletion waits for its message: nothing stays."""
    await loom.submit(thread_id="t")
    other = await loom.connect()
    async with other.sql.transaction():
        (claim,) = await other.claim()
        deleting = asyncio.create_task(number(loom, "select treadle.delete_thread('t')"))
        await (await loom.connect()).until_blocked(loom)
    assert await deleting == 1
    await assert_consistent(loom.sql)
    assert await loom.finish(claim) == ["lost"]


async def test_a_thread_is_deleted_under_a_submit(loom: Loom) -> None:
    """The submit waits, and makes the thread anew."""
    await loom.submit(thread_id="t")
    other = await loom.connect()
    async with other.sql.transaction():
        assert await number(other, "select treadle.delete_thread('t')") == 1
        submitting = asyncio.create_task(loom.submit(thread_id="t"))
        await (await loom.connect()).until_blocked(loom)
    assert (await loom.message(await submitting))["ord"] == 1


@pytest.mark.parametrize("hours", [500_000, 1e9, 1e300, float("inf")])
async def test_what_is_to_be_kept_for_ever_is(loom: Loom, hours: float) -> None:
    """Longer than there are ids or times: nothing is even looked at."""
    await loom.submit()
    await loom.run()
    assert await purge(loom, hours, hours) == [0]
    assert sum(await purge(loom, hours, 0)) == 0
