"""Reaping: dead workers lose what they held, and nobody who lives does."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.conftest import until
from tests.support.invariants import assert_consistent
from tests.support.sql_client import Loom

DAY = 86400


async def worker(loom: Loom, name: str = "w") -> Any:
    return await loom.sql.fetchrow("select * from treadle.workers where worker_id = $1", name)


async def started(loom: Loom) -> Any:
    """When this server started."""
    return await loom.sql.fetchval("select pg_postmaster_start_time()")


async def steady(loom: Loom, until: float, *others: tuple[str, Any], janitor: str = "janitor") -> None:
    """The janitor beats every two seconds up to this time; with it the other workers, naming what they hold."""
    for seconds in range(0, int(until) + 1, 2):
        await loom.shift(seconds)
        await loom.beat(janitor)
        for name, claims in others:
            await loom.beat(name, *claims)
    await loom.shift(until)


async def suspected(loom: Loom) -> None:
    """The lock of a worker's listener was found free, and time has passed."""
    await loom.shift(4)
    assert await loom.reap() == {}
    await loom.shift(7)


# Reaping


async def test_a_worker_whose_listener_is_gone_is_reaped_after_one_and_a_quarter_intervals(loom: Loom) -> None:
    """By anybody, however fresh; and only it."""
    message_id = await loom.submit(thread_id="t")
    await loom.claim()
    listener = await loom.connect()
    await listener.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    await loom.beat("w", server_started=await started(loom), grace=1000)
    await loom.shift(4)
    assert await loom.reap() == {}  # silent, but its listener is there
    await listener.sql.close()
    await until(lambda: loom.sql.fetchval("select pg_try_advisory_xact_lock(treadle.worker_key('w'))"))
    await loom.shift(5)
    assert await loom.reap() == {}  # gone: a suspect
    await loom.shift(7.4)
    assert await loom.reap() == {}
    await loom.shift(7.6)
    assert await loom.reap() == {message_id: "w"}
    message = await loom.message(message_id)
    assert (message["state"], message["lane"], message["losses"]) == ("queued", "high", 1)
    assert await worker(loom) is None
    assert await loom.reap() == {}


async def test_a_suspect_that_beats_is_none_any_more(loom: Loom) -> None:
    """Its connections were cut, and it is back on others; its listener not yet."""
    await loom.submit()
    (claim,) = await loom.claim()
    for seconds in (0, 2, 4, 6, 8):
        await loom.shift(seconds)
        await loom.beat("w", claim, server_started=await started(loom))
        await loom.shift(seconds + 0.1)
        assert await loom.reap() == {}
        assert (await worker(loom))["suspected_at"] is not None
        await loom.shift(seconds + 1.9)
        assert await loom.reap() == {}
    assert await loom.finish(claim) == ["completed"]


async def test_a_janitor_that_was_cut_off_itself_begins_to_suspect_anew(loom: Loom) -> None:
    """The server let nobody in for a while: that everybody was silent then says nothing."""
    message_id = await loom.submit()
    (claim,) = await loom.claim()
    await loom.beat("w", claim, server_started=await started(loom))
    await loom.beat("janitor")
    await loom.shift(1)
    assert await loom.reap() == {}
    first = (await worker(loom))["suspected_at"]
    await loom.shift(6)  # nobody has beaten meanwhile
    assert await loom.reap() == {}
    await loom.beat("janitor")
    assert await loom.reap() == {}
    assert (await worker(loom))["suspected_at"] > first
    await loom.shift(8)
    await loom.beat("janitor")
    assert await loom.reap() == {}
    await loom.shift(8.6)
    assert await loom.reap() == {message_id: "w"}


@pytest.mark.parametrize("server", ["another", "none"])
async def test_a_free_lock_on_another_incarnation_of_the_server_says_nothing(loom: Loom, server: str) -> None:
    """After a restart of PostgreSQL nobody holds a lock, and everybody lives."""
    message_id = await loom.submit()
    await loom.claim()
    at = await started(loom) - timedelta(hours=1) if server == "another" else None
    await loom.beat("w", server_started=at, grace=1000)
    await loom.shift(9)
    await loom.beat("janitor")
    assert await loom.reap() == {}
    assert await loom.state(message_id) == ("processing", None)
    await loom.sql.execute("update treadle.workers set beating_since = '-infinity'")
    await loom.shift(10.1)
    assert await loom.reap() == {message_id: "w"}


async def test_a_vanished_host_is_reaped_after_the_worker_timeout(loom: Loom) -> None:
    """Even while a half-open session still holds its lock."""
    message_id = await loom.submit()
    await loom.claim()
    session = await loom.connect()
    await session.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    await loom.beat("w", server_started=await started(loom), grace=1000)
    await steady(loom, 9.9)
    assert await loom.reap() == {}
    await steady(loom, 10.1)
    assert await loom.reap() == {message_id: "w"}


async def test_a_janitor_that_has_not_beaten_steadily_reaps_nobody_for_silence(loom: Loom) -> None:
    """The silence may be the database's: everybody is silent while it is away."""
    await loom.submit()
    (claim,) = await loom.claim()
    await loom.beat("w", claim)
    await steady(loom, 12, ("w", [claim]))
    # The database was away for an hour; the janitor is back first.
    await loom.shift(3600)
    assert await loom.reap() == {}  # before it has beaten again itself
    await loom.beat("janitor")
    assert await loom.reap() == {}
    await loom.shift(3601)
    await loom.beat("w", claim)
    for seconds in range(3602, 3620, 2):
        await loom.shift(seconds)
        await loom.beat("janitor")
        await loom.beat("w", claim)
        assert await loom.reap() == {}
    assert await loom.finish(claim) == ["completed"]


async def test_a_janitor_that_is_unknown_reaps_nobody_for_silence(loom: Loom) -> None:
    await loom.submit()
    (claim,) = await loom.claim()
    await loom.beat("w", claim)
    await loom.shift(1000)
    assert await loom.reap("unknown") == {}
    assert await loom.finish(claim) == ["completed"]


async def test_who_beats_is_not_reaped(loom: Loom) -> None:
    await loom.submit()
    (claim,) = await loom.claim(lease_seconds=20)
    for seconds in range(0, 60, 2):
        await loom.shift(seconds)
        await loom.beat("janitor")
        await loom.beat("w", claim, lease_seconds=20, server_started=await started(loom))
        assert await loom.reap() == {}
        assert await loom.claim(10) == []
    assert await loom.finish(claim) == ["completed"]


async def test_a_janitor_does_not_reap_itself(loom: Loom) -> None:
    await loom.submit()
    (claim,) = await loom.claim(worker="janitor")
    await loom.beat("janitor", claim, server_started=await started(loom))
    await loom.sql.execute("update treadle.workers set beating_since = '-infinity'")
    await loom.shift(30)
    assert await loom.reap() == {}
    assert await loom.finish(claim) == ["completed"]


async def test_leases_of_workers_nobody_knows_are_taken_back_after_the_worker_timeout(loom: Loom) -> None:
    message_id = await loom.submit()
    await loom.claim(worker="unknown")
    await steady(loom, 9)
    assert await loom.reap() == {}
    await steady(loom, 11)
    assert await loom.reap() == {message_id: None}
    assert (await loom.message(message_id))["losses"] == 1


async def test_a_lease_that_no_heartbeat_pushed_on_is_taken_back(loom: Loom) -> None:
    """The backstop: its worker beats, but does not know of it, nor does the grace ever end."""
    message_id = await loom.submit()
    await loom.claim(lease_seconds=30)
    for seconds in range(0, 32, 2):
        await loom.shift(seconds)
        await loom.beat("janitor")
        await loom.beat("w", grace=1000)
    await loom.shift(29)
    assert await loom.reap() == {}
    await loom.shift(31)
    assert await loom.reap() == {message_id: None}


async def test_reaping_waits_for_nobody(loom: Loom) -> None:
    held, locked, free = await loom.submit(thread_id="t"), await loom.submit(), await loom.submit(thread_id="u")
    await loom.claim(3)
    await loom.beat("w", server_started=await started(loom), grace=1000)
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.leases where message_id = $1 for update", locked)
        await loom.sql.execute("set lock_timeout = '1ms'")
        await suspected(loom)
        assert await loom.reap() == {free: "w"}
        assert await worker(loom) is not None  # not done with it yet
        await assert_consistent(loom.sql)
    assert await loom.reap() == {held: "w", locked: "w"}
    assert await worker(loom) is None


async def test_two_janitors_charge_a_loss_once(loom: Loom) -> None:
    for n in range(30):
        await loom.submit(thread_id=f"t{n % 7}", aside=n % 2 == 0)
    taken = await loom.claim(100)
    await loom.beat("w", server_started=await started(loom), grace=1000)
    janitors = [await loom.connect() for _ in range(3)]
    for janitor in janitors:
        await suspected(janitor)
    got: list[UUID] = []
    while len(got) < len(taken):
        for reaped in await asyncio.gather(*(janitor.reap() for janitor in janitors)):
            got += reaped
    assert sorted(got) == sorted(claim.message_id for claim in taken)
    losses = [row["losses"] for row in await loom.sql.fetch("select losses from treadle.messages where attempt = 1")]
    assert losses == [1] * len(taken)
    await loom.shift(8)


async def test_a_worker_with_more_than_fits_is_reaped_in_parts(loom: Loom) -> None:
    for _ in range(5):
        await loom.submit()
    await loom.claim(5)
    await loom.beat("w", server_started=await started(loom), grace=1000)
    await suspected(loom)
    parts = [len(await loom.sql.fetch("select treadle.reap('janitor', 2, 10, 3, quantity => 2)")) for _ in range(4)]
    assert parts == [2, 2, 1, 0]
    assert await worker(loom) is None


async def test_a_lease_that_is_pushed_on_just_now_is_left_alone(loom: Loom) -> None:
    """A janitor chose it as expired, and has yet to lock it: what it waits for here stands for any delay."""
    await loom.shift(-20)
    await loom.submit()
    claim = await loom.claim_one(lease_seconds=18)
    janitor, gate = await loom.connect(), await loom.connect()
    await steady(janitor, 0)
    await janitor.sql.execute("update treadle.workers set beating_since = '-infinity'")
    await loom.shift(0)
    async with gate.sql.transaction():
        await gate.sql.execute("lock table treadle.threads in access exclusive mode")
        reaping = asyncio.create_task(janitor.reap())
        await loom.until_blocked(janitor)
        assert await loom.beat("w", claim, lease_seconds=60) == {}
    assert await reaping == {}
    message = await loom.message(claim.message_id)
    assert (message["state"], message["losses"]) == ("processing", 0)


async def test_a_worker_that_beats_just_now_is_left_alone(loom: Loom) -> None:
    await loom.submit()
    claim = await loom.claim_one()
    await loom.beat("w", claim, server_started=await started(loom))
    late = await loom.connect()
    await late.shift(7)
    await suspected(loom)
    await loom.sql.execute("set lock_timeout = '1ms'")
    async with late.sql.transaction():
        assert await late.beat("w", claim, server_started=await started(loom)) == {}
        assert await loom.reap() == {}
    assert await loom.finish(claim) == ["completed"]


async def test_who_signs_off_gives_back_what_it_still_has(loom: Loom) -> None:
    """Without a loss; what somebody holds just then is left to the janitors, which know the worker no more."""
    free, held = await loom.submit(thread_id="a"), await loom.submit(thread_id="b")
    claims = await loom.claim(2)
    await loom.beat("w", *claims)
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 'b' for update")
        await loom.sql.execute("select treadle.sign_off('w')")
    assert await worker(loom) is None
    message = await loom.message(free)
    assert (message["state"], message["losses"], message["lane"]) == ("queued", 0, "high")
    assert await loom.state(held) == ("processing", None)
    await steady(loom, 12)
    assert await loom.reap() == {held: None}
    await assert_consistent(loom.sql)
