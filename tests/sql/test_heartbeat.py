"""Heartbeats: which workers live, which leases they hold, and which messages return to their lane."""

import asyncio
from typing import Any

import pytest

from service.leases.model import Claim
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

pytestmark = pytest.mark.usefixtures("standing_clock")

DAY = 86400


async def worker(sql_client: SqlClient, name: str = "w") -> Any:
    return await sql_client.sql.fetchrow("select * from treadle.workers where worker_id = $1", name)


async def started(sql_client: SqlClient) -> Any:
    """When this server started."""
    return await sql_client.sql.fetchval("select pg_postmaster_start_time()")


# The heartbeat


async def test_a_heartbeat_makes_the_worker_known_and_keeps_it_alive(sql_client: SqlClient) -> None:
    await sql_client.submit()
    (claim,) = await sql_client.claim()
    await sql_client.heartbeat("w", claim, server_started=await started(sql_client))
    first = await worker(sql_client)
    assert (first["host"], first["pid"], first["queues"], first["concurrency"]) == ("host", 1, ["default"], 10)
    assert (first["in_flight"], first["server_started"]) == (1, await started(sql_client))
    assert first["heartbeat_at"] == first["beating_since"]
    await sql_client.shift_clock(3)
    await sql_client.heartbeat("w")
    second = await worker(sql_client)
    assert (second["heartbeat_at"] - first["heartbeat_at"]).total_seconds() >= 3
    assert (second["in_flight"], second["server_started"]) == (0, None)
    assert (second["started_at"], second["beating_since"]) == (first["started_at"], first["beating_since"])
    row = await fetch_row(sql_client.sql, "select worker_id, in_flight, silent_seconds from treadle.worker_overview")
    assert (row["worker_id"], row["in_flight"]) == ("w", 1)


async def test_a_gap_between_heartbeats_begins_a_new_beat(sql_client: SqlClient) -> None:
    await sql_client.heartbeat("w")
    first = await worker(sql_client)
    await sql_client.shift_clock(5)  # more than two intervals of 2
    await sql_client.heartbeat("w")
    second = await worker(sql_client)
    assert second["beating_since"] == second["heartbeat_at"] > first["beating_since"]


async def test_a_heartbeat_names_lost_and_cancelled_leases(sql_client: SqlClient) -> None:
    for _ in range(3):
        await sql_client.submit()
    fine, cancelled, lost = await sql_client.claim(3)
    await sql_client.cancel(cancelled.message_id)
    await sql_client.finish(lost, outcome="released")
    verdicts = await sql_client.heartbeat("w", fine, cancelled, lost)
    assert verdicts == {cancelled.message_id: "cancelled", lost.message_id: "lost"}
    (again,) = await sql_client.claim(worker="other")
    assert again.message_id == lost.message_id
    assert (await sql_client.heartbeat("w", fine, lost))[lost.message_id] == "lost"
    assert await sql_client.heartbeat("other", again) == {}


async def test_a_claim_whose_answer_was_lost_is_given_back_after_a_grace(sql_client: SqlClient) -> None:
    orphan, thread = await sql_client.submit(priority="low"), await sql_client.submit(thread_id="t", priority="low")
    held = await sql_client.submit()
    claims = {claim.message_id: claim for claim in await sql_client.claim(3)}
    await sql_client.submit()
    (foreign,) = await sql_client.claim(worker="other")
    before = await sql_client.all_rows()
    await sql_client.shift_clock(4)
    assert await sql_client.heartbeat("w", claims[held]) == {}
    before = {name: rows for name, rows in before.items() if name != "treadle.workers"}
    after = await sql_client.all_rows()
    assert {name: after[name] for name in before} == before
    await sql_client.shift_clock(6)
    assert await sql_client.heartbeat("w", claims[held]) == {}
    for message_id in (orphan, thread):
        message = await sql_client.message(message_id)
        assert (message["state"], message["losses"], message["failures"]) == ("queued", 0, 0)
        assert (message["lane"], message["lane_id"] < 0) == (message["priority"], True)
        assert await sql_client.types(message_id) == ["queued", "started", "retry"]
    for claim in (claims[held], foreign):
        assert await sql_client.state(claim.message_id) == ("processing", None)


async def test_a_late_report_releases_no_claim_that_came_after_it(sql_client: SqlClient) -> None:
    """An agent that holds the GIL delays a report, while its stand-in beats and a claim has been answered."""
    await sql_client.heartbeat("w")
    await sql_client.shift_clock(2)
    message_id = await sql_client.submit()
    await sql_client.claim()
    for seconds in range(4, 20, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.sql.execute("select treadle.stand_in('w', 60)")
    await sql_client.heartbeat("w")  # the late report, without the claim
    assert await sql_client.state(message_id) == ("processing", None)
    await sql_client.shift_clock(20)
    await sql_client.heartbeat("w")  # the next one was written after the answer to it: the claim's answer was lost
    assert await sql_client.state(message_id) == ("queued", None)


async def test_nothing_is_released_while_a_claim_is_in_flight(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.claim()
    for seconds in range(2, 20, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("w", grace=None)
    assert await sql_client.state(message_id) == ("processing", None)


async def test_the_lease_that_counts_is_the_one_named(sql_client: SqlClient) -> None:
    """A worker that lost a message and claimed it again holds the new lease: naming the old one gives it back."""
    await sql_client.submit()
    (old,) = await sql_client.claim()
    await sql_client.finish(old, outcome="released")
    (new,) = await sql_client.claim()
    await sql_client.shift_clock(6)
    assert await sql_client.heartbeat("w", new) == {}
    assert await sql_client.state(new.message_id) == ("processing", None)
    await sql_client.shift_clock(7)
    assert await sql_client.heartbeat("w", old) == {old.message_id: "lost"}
    assert await sql_client.state(new.message_id) == ("queued", None)


async def test_an_orphan_that_was_to_be_cancelled_is(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.claim()
    await sql_client.cancel(message_id)
    for seconds in (4, 6):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("w")
    assert await sql_client.state(message_id) == ("cancelled", None)


async def test_a_heartbeat_waits_for_no_thread_and_no_lease(sql_client: SqlClient) -> None:
    held, locked = await sql_client.submit(thread_id="t"), await sql_client.submit()
    free = await sql_client.submit(thread_id="u")
    await sql_client.claim(3)
    await sql_client.shift_clock(4)
    await sql_client.heartbeat("w")
    other = await sql_client.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.leases where message_id = $1 for update", locked)
        await sql_client.limit_lock_waits()
        await sql_client.shift_clock(6)
        await sql_client.heartbeat("w")
        assert [(await sql_client.state(id))[0] for id in (held, locked, free)] == [
            "processing",
            "processing",
            "queued",
        ]
    await sql_client.heartbeat("w")
    assert [(await sql_client.state(id))[0] for id in (held, locked, free)] == ["queued"] * 3


async def test_what_another_worker_claims_just_now_is_not_given_back(sql_client: SqlClient) -> None:
    """A heartbeat found an orphan, and has yet to lock it: what it waits for here stands for any delay."""
    message_id = await sql_client.submit()
    orphan = await sql_client.claim_one(worker="w")
    await sql_client.shift_clock(1)
    await sql_client.heartbeat("w", grace=None)
    other, gate = await sql_client.connect(), await sql_client.connect()
    await other.shift_clock(2)
    async with gate.sql.transaction():
        await gate.sql.execute("lock table treadle.threads in access exclusive mode")
        beating = asyncio.create_task(other.heartbeat("w", grace=0))
        await sql_client.until_blocked(other)
        assert await gate.finish(orphan, outcome="released") == ["queued"]
        await gate.claim_one(worker="v")
    assert await beating == {}
    message = await sql_client.message(message_id)
    assert (message["state"], message["worker_id"]) == ("processing", "v")


async def test_a_heartbeat_pushes_leases_on_once_half_of_them_is_gone(sql_client: SqlClient) -> None:
    for _ in range(2):
        await sql_client.submit()
    named, unnamed = await sql_client.claim(2, lease_seconds=60)

    async def left(claim: Claim) -> list[int]:
        """Whole seconds until the lease and its lane row expire, from the true time."""
        return list(
            await fetch_row(
                sql_client.sql,
                "select extract(epoch from l.expires_at - l.claimed_at)::integer,"
                " extract(epoch from q.vt - l.claimed_at)::integer from treadle.leases l"
                " join pgmq.q_default_normal q on q.message ->> 'message_id' = l.message_id::text"
                " where l.message_id = $1",
                claim.message_id,
            )
        )

    await sql_client.shift_clock(25)
    await sql_client.heartbeat("w", named, grace=1000)
    assert await left(named) == [60, 60]
    await sql_client.shift_clock(35)
    await sql_client.heartbeat("w", named, grace=1000)
    assert [seconds // 5 for seconds in await left(named)] == [95 // 5, 95 // 5]
    assert await left(unnamed) == [60, 60]
    await sql_client.shift_clock(90)
    assert await sql_client.claim(10) == []  # the unnamed one shows, is the janitor's business, and is hidden again
    assert await sql_client.finish(named, unnamed) == ["completed", "completed"]


async def test_a_worker_that_signs_off_is_forgotten(sql_client: SqlClient) -> None:
    await sql_client.heartbeat("w")
    await sql_client.sql.execute("select treadle.sign_off('w')")
    assert await worker(sql_client) is None
