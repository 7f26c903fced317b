"""Heartbeats: who is alive, what it holds, and what is given back."""

import asyncio
from typing import Any

from service.queues.model import Claim
from tests.support.sql_client import Loom

DAY = 86400


async def worker(loom: Loom, name: str = "w") -> Any:
    return await loom.sql.fetchrow("select * from treadle.workers where worker_id = $1", name)


async def started(loom: Loom) -> Any:
    """When this server started."""
    return await loom.sql.fetchval("select pg_postmaster_start_time()")


# The heartbeat


async def test_a_heartbeat_makes_the_worker_known_and_keeps_it_alive(loom: Loom) -> None:
    await loom.submit()
    (claim,) = await loom.claim()
    await loom.beat("w", claim, server_started=await started(loom))
    first = await worker(loom)
    assert (first["host"], first["pid"], first["queues"], first["concurrency"]) == ("host", 1, ["default"], 10)
    assert (first["in_flight"], first["server_started"]) == (1, await started(loom))
    assert first["heartbeat_at"] == first["beating_since"]
    await loom.shift(3)
    await loom.beat("w")
    second = await worker(loom)
    assert (second["heartbeat_at"] - first["heartbeat_at"]).total_seconds() >= 3
    assert (second["in_flight"], second["server_started"]) == (0, None)
    assert (second["started_at"], second["beating_since"]) == (first["started_at"], first["beating_since"])
    row = await loom.sql.fetchrow("select worker_id, in_flight, silent_seconds from treadle.worker_overview")
    assert (row["worker_id"], row["in_flight"]) == ("w", 1)


async def test_a_gap_between_heartbeats_begins_a_new_beat(loom: Loom) -> None:
    await loom.beat("w")
    first = await worker(loom)
    await loom.shift(5)  # more than two intervals of 2
    await loom.beat("w")
    second = await worker(loom)
    assert second["beating_since"] == second["heartbeat_at"] > first["beating_since"]


async def test_a_heartbeat_names_what_is_lost_and_what_is_cancelled(loom: Loom) -> None:
    for _ in range(3):
        await loom.submit()
    fine, cancelled, lost = await loom.claim(3)
    await loom.cancel(cancelled.message_id)
    await loom.finish(lost, outcome="released")
    verdicts = await loom.beat("w", fine, cancelled, lost)
    assert verdicts == {cancelled.message_id: "cancelled", lost.message_id: "lost"}
    (again,) = await loom.claim(worker="other")
    assert again.message_id == lost.message_id
    assert (await loom.beat("w", fine, lost))[lost.message_id] == "lost"
    assert await loom.beat("other", again) == {}


async def test_a_claim_whose_answer_was_lost_is_given_back_after_a_grace(loom: Loom) -> None:
    orphan, thread = await loom.submit(priority="low"), await loom.submit(thread_id="t", priority="low")
    held = await loom.submit()
    claims = {claim.message_id: claim for claim in await loom.claim(3)}
    await loom.submit()
    (foreign,) = await loom.claim(worker="other")
    before = await loom.everything()
    await loom.shift(4)
    assert await loom.beat("w", claims[held]) == {}
    before = {name: rows for name, rows in before.items() if name != "treadle.workers"}
    after = await loom.everything()
    assert {name: after[name] for name in before} == before
    await loom.shift(6)
    assert await loom.beat("w", claims[held]) == {}
    for message_id in (orphan, thread):
        message = await loom.message(message_id)
        assert (message["state"], message["lane"], message["losses"], message["failures"]) == ("queued", "high", 0, 0)
        assert await loom.types(message_id) == ["queued", "started", "retry"]
    for claim in (claims[held], foreign):
        assert await loom.state(claim.message_id) == ("processing", None)


async def test_the_lease_that_counts_is_the_one_named(loom: Loom) -> None:
    """A worker that lost a message and claimed it again holds the new lease: naming the old one gives it back."""
    await loom.submit()
    (old,) = await loom.claim()
    await loom.finish(old, outcome="released")
    (new,) = await loom.claim()
    await loom.shift(6)
    assert await loom.beat("w", new) == {}
    assert await loom.state(new.message_id) == ("processing", None)
    assert await loom.beat("w", old) == {old.message_id: "lost"}
    assert await loom.state(new.message_id) == ("queued", None)


async def test_an_orphan_that_was_to_be_cancelled_is(loom: Loom) -> None:
    message_id = await loom.submit()
    await loom.claim()
    await loom.cancel(message_id)
    await loom.shift(6)
    await loom.beat("w")
    assert await loom.state(message_id) == ("cancelled", None)


async def test_a_heartbeat_waits_for_no_thread_and_no_lease(loom: Loom) -> None:
    held, locked = await loom.submit(thread_id="t"), await loom.submit()
    free = await loom.submit(thread_id="u")
    await loom.claim(3)
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.leases where message_id = $1 for update", locked)
        await loom.sql.execute("set lock_timeout = '1ms'")
        await loom.shift(6)
        await loom.beat("w")
        assert [(await loom.state(id))[0] for id in (held, locked, free)] == ["processing", "processing", "queued"]
    await loom.beat("w")
    assert [(await loom.state(id))[0] for id in (held, locked, free)] == ["queued"] * 3


async def test_what_another_worker_claims_just_now_is_not_given_back(loom: Loom) -> None:
    """A heartbeat found an orphan, and has yet to lock it: what it waits for here stands for any delay."""
    message_id = await loom.submit()
    orphan = await loom.claim_one(worker="w")
    other, gate = await loom.connect(), await loom.connect()
    async with gate.sql.transaction():
        await gate.sql.execute("lock table treadle.threads in access exclusive mode")
        beating = asyncio.create_task(other.beat("w", grace=0))
        await loom.until_blocked(other)
        assert await gate.finish(orphan, outcome="released") == ["queued"]
        await gate.claim_one(worker="v")
    assert await beating == {}
    message = await loom.message(message_id)
    assert (message["state"], message["worker_id"]) == ("processing", "v")


async def test_a_heartbeat_pushes_leases_on_once_half_of_them_is_gone(loom: Loom) -> None:
    for _ in range(2):
        await loom.submit()
    named, unnamed = await loom.claim(2, lease_seconds=60)

    async def left(claim: Claim) -> list[int]:
        """Whole seconds until the lease and its lane row expire, from the true time."""
        return list(
            await loom.sql.fetchrow(
                "select extract(epoch from l.expires_at - l.claimed_at)::integer,"
                " extract(epoch from q.vt - l.claimed_at)::integer from treadle.leases l"
                " join pgmq.q_default_normal q on q.message ->> 'message_id' = l.message_id::text"
                " where l.message_id = $1",
                claim.message_id,
            )
        )

    await loom.shift(25)
    await loom.beat("w", named, grace=1000)
    assert await left(named) == [60, 60]
    await loom.shift(35)
    await loom.beat("w", named, grace=1000)
    assert [seconds // 5 for seconds in await left(named)] == [95 // 5, 95 // 5]
    assert await left(unnamed) == [60, 60]
    await loom.shift(90)
    assert await loom.claim(10) == []  # the unnamed one shows, is the janitor's business, and is hidden again
    assert await loom.finish(named, unnamed) == ["completed", "completed"]


async def test_a_worker_that_signs_off_is_forgotten(loom: Loom) -> None:
    await loom.beat("w")
    await loom.sql.execute("select treadle.sign_off('w')")
    assert await worker(loom) is None
