"""Reaping: messages of dead workers are requeued, those of living workers are not."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("standing_clock")

DAY = 86400


async def worker(sql_client: SqlClient, name: str = "w") -> Any:
    return await sql_client.sql.fetchrow("select * from treadle.workers where worker_id = $1", name)


async def started(sql_client: SqlClient) -> Any:
    """The start time of this server."""
    return await sql_client.sql.fetchval("select pg_postmaster_start_time()")


async def steady(sql_client: SqlClient, until: float, *others: tuple[str, Any], janitor: str = "janitor") -> None:
    """The janitor sends heartbeats every two seconds up to this time, and so do the others, with their claims."""
    for seconds in range(0, int(until) + 1, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat(janitor)
        for name, claims in others:
            await sql_client.heartbeat(name, *claims)
    await sql_client.shift_clock(until)


async def suspected(sql_client: SqlClient) -> None:
    """The lock of a worker's listener was found free, and time has passed."""
    await sql_client.shift_clock(4)
    assert await sql_client.reap() == {}
    await sql_client.shift_clock(7)


# Reaping


async def test_a_worker_whose_lock_is_free_is_reaped_after_one_and_a_quarter_intervals(
    sql_client: SqlClient,
) -> None:
    """Any janitor does it, also a new one, and reaps no other worker."""
    message_id = await sql_client.submit(thread_id="t")
    await sql_client.claim()
    listener = await sql_client.connect()
    await listener.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    await sql_client.heartbeat("w", server_started=await started(sql_client), grace=1000)
    await sql_client.shift_clock(4)
    assert await sql_client.reap() == {}  # silent, but its listener is there
    await listener.sql.close()
    await until(lambda: sql_client.sql.fetchval("select pg_try_advisory_xact_lock(treadle.worker_key('w'))"))
    await sql_client.shift_clock(5)
    assert await sql_client.reap() == {}  # gone: a suspect
    await sql_client.shift_clock(6)
    assert await sql_client.reap() == {}
    await sql_client.shift_clock(7.6)
    assert await sql_client.reap() == {message_id: "w"}
    message = await sql_client.message(message_id)
    assert (message["state"], message["lane"], message["losses"]) == ("queued", "normal", 1)
    assert await worker(sql_client) is None
    assert await sql_client.reap() == {}


async def test_a_heartbeat_clears_a_suspicion(sql_client: SqlClient) -> None:
    """Its connections were cut. It has new ones, but its listener is not back yet."""
    await sql_client.submit()
    (claim,) = await sql_client.claim()
    for seconds in (0, 2, 4, 6, 8):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("w", claim, server_started=await started(sql_client))
        await sql_client.shift_clock(seconds + 0.1)
        assert await sql_client.reap() == {}
        assert (await worker(sql_client))["suspected_at"] is not None
        await sql_client.shift_clock(seconds + 1)
        assert await sql_client.reap() == {}
    assert await sql_client.finish(claim) == ["completed"]


async def test_a_janitor_that_was_cut_off_starts_its_suspicions_again(sql_client: SqlClient) -> None:
    """While the server lets no client in, every worker is silent, so silence proves nothing."""
    message_id = await sql_client.submit()
    (claim,) = await sql_client.claim()
    await sql_client.heartbeat("w", claim, server_started=await started(sql_client))
    await sql_client.heartbeat("janitor")
    await sql_client.shift_clock(1)
    assert await sql_client.reap() == {}
    first = (await worker(sql_client))["suspected_at"]
    await sql_client.shift_clock(6)  # without any heartbeat
    assert await sql_client.reap() == {}
    await sql_client.heartbeat("janitor")
    assert await sql_client.reap() == {}
    assert (await worker(sql_client))["suspected_at"] > first
    await sql_client.shift_clock(7)
    await sql_client.heartbeat("janitor")
    assert await sql_client.reap() == {}
    await sql_client.shift_clock(8.6)
    assert await sql_client.reap() == {message_id: "w"}


@pytest.mark.parametrize("server", ["another", "none"])
async def test_a_free_lock_on_another_incarnation_of_the_server_says_nothing(
    sql_client: SqlClient, server: str
) -> None:
    """After a restart of PostgreSQL no worker holds its lock, though all are alive."""
    message_id = await sql_client.submit()
    await sql_client.claim()
    at = await started(sql_client) - timedelta(hours=1) if server == "another" else None
    await sql_client.heartbeat("w", server_started=at, grace=1000)
    await sql_client.shift_clock(9)
    await sql_client.heartbeat("janitor")
    assert await sql_client.reap() == {}
    assert await sql_client.state(message_id) == ("processing", None)
    await sql_client.sql.execute("update treadle.workers set beating_since = '-infinity'")
    await sql_client.shift_clock(10.1)
    assert await sql_client.reap() == {message_id: "w"}


async def test_a_vanished_host_is_reaped_after_the_worker_timeout(sql_client: SqlClient) -> None:
    """Even while a half-open session still holds its lock."""
    message_id = await sql_client.submit()
    await sql_client.claim()
    session = await sql_client.connect()
    await session.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    await sql_client.heartbeat("w", server_started=await started(sql_client), grace=1000)
    await steady(sql_client, 5)  # less than the timeout by far more than these calls take on a busy machine
    assert await sql_client.reap() == {}
    await steady(sql_client, 10.1)
    assert await sql_client.reap() == {message_id: "w"}


async def test_a_janitor_without_steady_heartbeats_does_not_reap_for_silence(sql_client: SqlClient) -> None:
    """The silence may be the database's: every worker is silent while it is away."""
    await sql_client.submit()
    (claim,) = await sql_client.claim()
    await sql_client.heartbeat("w", claim)
    await steady(sql_client, 12, ("w", [claim]))
    # The database was away for an hour; the janitor is back first.
    await sql_client.shift_clock(3600)
    assert await sql_client.reap() == {}  # before it has beaten again itself
    await sql_client.heartbeat("janitor")
    assert await sql_client.reap() == {}
    await sql_client.shift_clock(3601)
    await sql_client.heartbeat("w", claim)
    for seconds in range(3602, 3620, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("janitor")
        await sql_client.heartbeat("w", claim)
        assert await sql_client.reap() == {}
    assert await sql_client.finish(claim) == ["completed"]


async def test_an_unknown_janitor_does_not_reap_for_silence(sql_client: SqlClient) -> None:
    await sql_client.submit()
    (claim,) = await sql_client.claim()
    await sql_client.heartbeat("w", claim)
    await sql_client.shift_clock(1000)
    assert await sql_client.reap("unknown") == {}
    assert await sql_client.finish(claim) == ["completed"]


async def test_a_worker_that_sends_heartbeats_is_not_reaped(sql_client: SqlClient) -> None:
    await sql_client.submit()
    (claim,) = await sql_client.claim(lease_seconds=20)
    for seconds in range(0, 60, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("janitor")
        await sql_client.heartbeat("w", claim, lease_seconds=20, server_started=await started(sql_client))
        assert await sql_client.reap() == {}
        assert await sql_client.claim(10) == []
    assert await sql_client.finish(claim) == ["completed"]


async def test_a_janitor_does_not_reap_itself(sql_client: SqlClient) -> None:
    await sql_client.submit()
    (claim,) = await sql_client.claim(worker="janitor")
    await sql_client.heartbeat("janitor", claim, server_started=await started(sql_client))
    await sql_client.sql.execute("update treadle.workers set beating_since = '-infinity'")
    await sql_client.shift_clock(30)
    assert await sql_client.reap() == {}
    assert await sql_client.finish(claim) == ["completed"]


async def test_leases_of_unknown_workers_are_taken_back_after_the_worker_timeout(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.claim(worker="unknown")
    await steady(sql_client, 5)
    assert await sql_client.reap() == {}
    await steady(sql_client, 11)
    assert await sql_client.reap() == {message_id: None}
    assert (await sql_client.message(message_id))["losses"] == 1


async def test_a_lease_that_no_heartbeat_extends_is_taken_back(sql_client: SqlClient) -> None:
    """The last safety net: its worker sends heartbeats without this lease, and the grace never ends."""
    message_id = await sql_client.submit()
    await sql_client.claim(lease_seconds=40)
    for seconds in range(0, 42, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("janitor")
        await sql_client.heartbeat("w", grace=1000)
        if seconds == 30:
            assert await sql_client.reap() == {}
    await sql_client.shift_clock(41)
    assert await sql_client.reap() == {message_id: None}


async def test_reaping_waits_for_no_lock(sql_client: SqlClient) -> None:
    held, locked, free = (
        await sql_client.submit(thread_id="t"),
        await sql_client.submit(),
        await sql_client.submit(thread_id="u"),
    )
    await sql_client.claim(3)
    await sql_client.heartbeat("w", server_started=await started(sql_client), grace=1000)
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.leases where message_id = $1 for update", locked)
        await sql_client.limit_lock_waits()
        await suspected(sql_client)
        assert await sql_client.reap() == {free: "w"}
        assert await worker(sql_client) is not None  # not done with it yet
        await assert_consistent(sql_client.sql)
    assert await sql_client.reap() == {held: "w", locked: "w"}
    assert await worker(sql_client) is None


async def test_two_janitors_charge_a_loss_once(sql_client: SqlClient) -> None:
    for n in range(30):
        await sql_client.submit(thread_id=f"t{n % 7}", aside=n % 2 == 0)
    taken = await sql_client.claim(100)
    await sql_client.heartbeat("w", server_started=await started(sql_client), grace=1000)
    janitors = [await sql_client.connect() for _ in range(3)]
    for janitor in janitors:
        await suspected(janitor)
    got: list[UUID] = []
    while len(got) < len(taken):
        for reaped in await asyncio.gather(*(janitor.reap() for janitor in janitors)):
            got += reaped
    assert sorted(got) == sorted(claim.message_id for claim in taken)
    losses = [
        row["losses"] for row in await sql_client.sql.fetch("select losses from treadle.messages where attempt = 1")
    ]
    assert losses == [1] * len(taken)
    await sql_client.shift_clock(8)


async def test_a_worker_with_more_than_fits_is_reaped_in_parts(sql_client: SqlClient) -> None:
    for _ in range(5):
        await sql_client.submit()
    await sql_client.claim(5)
    await sql_client.heartbeat("w", server_started=await started(sql_client), grace=1000)
    await suspected(sql_client)
    parts = [
        len(await sql_client.sql.fetch("select treadle.reap('janitor', 2, 10, 3, quantity => 2)")) for _ in range(4)
    ]
    assert parts == [2, 2, 1, 0]
    assert await worker(sql_client) is None


async def test_a_lease_that_is_extended_just_now_is_kept(sql_client: SqlClient) -> None:
    """A janitor has chosen it as expired but not locked it yet; the lock it waits for here stands for any delay."""
    await sql_client.shift_clock(-20)
    await sql_client.submit()
    claim = await sql_client.claim_one(lease_seconds=18)
    janitor, gate = await sql_client.connect(), await sql_client.connect()
    await steady(janitor, 0)
    await janitor.sql.execute("update treadle.workers set beating_since = '-infinity'")
    await sql_client.shift_clock(0)
    async with gate.sql.transaction():
        await gate.sql.execute("lock table treadle.threads in access exclusive mode")
        reaping = asyncio.create_task(janitor.reap())
        await sql_client.until_blocked(janitor)
        assert await sql_client.heartbeat("w", claim, lease_seconds=60) == {}
    assert await reaping == {}
    message = await sql_client.message(claim.message_id)
    assert (message["state"], message["losses"]) == ("processing", 0)


async def test_a_worker_that_sends_a_heartbeat_just_now_is_kept(sql_client: SqlClient) -> None:
    await sql_client.submit()
    claim = await sql_client.claim_one()
    await sql_client.heartbeat("w", claim, server_started=await started(sql_client))
    late = await sql_client.connect()
    await late.shift_clock(7)
    await suspected(sql_client)
    await sql_client.limit_lock_waits()
    async with late.sql.transaction():
        assert await late.heartbeat("w", claim, server_started=await started(sql_client)) == {}
        assert await sql_client.reap() == {}
    assert await sql_client.finish(claim) == ["completed"]


async def test_a_worker_that_signs_off_gives_its_messages_back(sql_client: SqlClient) -> None:
    """Without a loss. A message that another transaction has locked is left to the janitors."""
    free, held = await sql_client.submit(thread_id="a"), await sql_client.submit(thread_id="b")
    claims = await sql_client.claim(2)
    await sql_client.heartbeat("w", *claims)
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 'b' for update")
        await sql_client.sql.execute("select treadle.sign_off('w')")
    assert await worker(sql_client) is None
    message = await sql_client.message(free)
    assert (message["state"], message["losses"], message["lane"]) == ("queued", 0, "normal")
    assert await sql_client.state(held) == ("processing", None)
    await steady(sql_client, 12)
    assert await sql_client.reap() == {held: None}
    await assert_consistent(sql_client.sql)
