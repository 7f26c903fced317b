"""Heartbeats and the janitor's chores: who is alive, what is due, what is past its time."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from invariants import assert_consistent
from loom import Loom

from service.queues.model import Claim

DAY = 86400


async def worker(loom: Loom, name: str = "w") -> Any:
    return await loom.sql.fetchrow("select * from treadle.workers where worker_id = $1", name)


async def started(loom: Loom) -> Any:
    """When this server started."""
    return await loom.sql.fetchval("select pg_postmaster_start_time()")


async def number(loom: Loom, query: str, *arguments: Any) -> int:
    return int(await loom.sql.fetchval(query, *arguments))


async def steady(loom: Loom, until: float, *others: tuple[str, Any], janitor: str = "janitor") -> None:
    """The janitor beats every two seconds up to this time; with it the other workers, naming what they hold."""
    for seconds in range(0, int(until) + 1, 2):
        await loom.shift(seconds)
        await loom.beat(janitor)
        for name, claims in others:
            await loom.beat(name, *claims)
    await loom.shift(until)


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


# Reaping


async def test_a_worker_whose_listener_is_gone_is_reaped_after_one_and_a_half_intervals(loom: Loom) -> None:
    """By anybody, however fresh; and only it."""
    message_id = await loom.submit(thread_id="t")
    await loom.claim()
    listener = await loom.connect()
    await listener.sql.execute("select pg_advisory_lock(treadle.worker_key('w'))")
    await loom.beat("w", server_started=await started(loom), grace=1000)
    await loom.shift(4)
    assert await loom.reap() == {}  # silent, but its listener is there
    await listener.sql.close()
    await loom.shift(2.9)
    assert await loom.reap() == {}  # gone, but it beat just now
    await loom.shift(3.1)
    assert await loom.reap() == {message_id: "w"}
    message = await loom.message(message_id)
    assert (message["state"], message["lane"], message["losses"]) == ("queued", "high", 1)
    assert await worker(loom) is None
    assert await loom.reap() == {}


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
        await loom.shift(4)
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
        await janitor.shift(4)
    got: list[UUID] = []
    while len(got) < len(taken):
        for reaped in await asyncio.gather(*(janitor.reap() for janitor in janitors)):
            got += reaped
    assert sorted(got) == sorted(claim.message_id for claim in taken)
    losses = [row["losses"] for row in await loom.sql.fetch("select losses from treadle.messages where attempt = 1")]
    assert losses == [1] * len(taken)
    await loom.shift(4)


async def test_a_worker_with_more_than_fits_is_reaped_in_parts(loom: Loom) -> None:
    for _ in range(5):
        await loom.submit()
    await loom.claim(5)
    await loom.beat("w", server_started=await started(loom), grace=1000)
    await loom.shift(4)
    parts = [len(await loom.sql.fetch("select treadle.reap('janitor', 2, 10, 3, quantity => 2)")) for _ in range(4)]
    assert parts == [2, 2, 1, 0]
    assert await worker(loom) is None


# What is due

ADMIT = "select treadle.admit_due()"


async def test_what_is_due_is_admitted_and_nothing_else(loom: Loom) -> None:
    soon, later = await loom.submit(delay_seconds=10), await loom.submit(delay_seconds=20)
    failed = await loom.submit()
    (claim,) = await loom.claim()
    await loom.finish(claim, outcome="error", delay=15)
    for seconds, due in ((9, []), (11, [soon]), (14, []), (16, [failed]), (21, [later])):
        await loom.shift(seconds)
        assert await number(loom, ADMIT) == len(due)
        assert [claim.message_id for claim in await loom.claim(10)] == due


async def test_a_few_at_a_time(loom: Loom) -> None:
    await loom.submit_many(*[{"delay_seconds": n + 1} for n in range(5)])
    await loom.shift(60)
    counts = [await number(loom, "select treadle.admit_due(2)") for _ in range(4)]
    assert counts == [2, 2, 1, 0]


async def test_admitting_waits_for_nobody(loom: Loom) -> None:
    held = await loom.submit(thread_id="t", delay_seconds=1)
    locked, free = await loom.submit(delay_seconds=1), await loom.submit(delay_seconds=1, thread_id="u")
    other = await loom.connect()
    await loom.shift(2)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads where thread_id = 't' for update")
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await loom.sql.execute("set lock_timeout = '1ms'")
        assert await number(loom, ADMIT) == 1
        assert await loom.state(free) == ("queued", None)
    assert await number(loom, ADMIT) == 2
    assert await loom.state(held) == await loom.state(locked) == ("queued", None)


async def test_behind_however_many_held_messages_what_is_due_is_found(loom: Loom) -> None:
    await loom.submit_many(*[{"thread_id": "t", "delay_seconds": 1}] * 10)
    free = await loom.submit(delay_seconds=2)
    other = await loom.connect()
    await loom.shift(3)
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.threads for update")
        assert await number(loom, "select treadle.admit_due(2)") == 1
        assert await loom.state(free) == ("queued", None)
        assert await number(loom, "select treadle.admit_due(2)") == 0


async def test_several_of_a_thread_come_due_at_once(loom: Loom) -> None:
    rows = await loom.submit_many(
        {"thread_id": "t", "delay_seconds": 3},
        {"thread_id": "t", "delay_seconds": 2, "priority": "high"},
        {"thread_id": "t", "delay_seconds": 1, "aside": True},
        {"thread_id": "t", "delay_seconds": 99},
    )
    normal, high, aside, later = [row["message_id"] for row in rows]
    await loom.shift(5)
    assert await number(loom, ADMIT) == 3
    assert [await loom.state(id) for id in (normal, high, aside, later)] == [
        ("queued", "thread"),
        ("queued", None),
        ("queued", None),
        ("queued", "delay"),
    ]
    assert (await loom.thread("t"))["turn"] == high


async def test_two_janitors_admit_each_message_once(loom: Loom) -> None:
    await loom.submit_many(*[{"thread_id": f"t{n % 5}" if n % 3 else None, "delay_seconds": 1} for n in range(60)])
    janitors = [await loom.connect() for _ in range(3)]
    for janitor in janitors:
        await janitor.shift(2)
    admitted = 0
    while admitted < 60:
        admitted += sum(await asyncio.gather(*(number(janitor, "select treadle.admit_due(7)") for janitor in janitors)))
    assert admitted == 60
    await loom.shift(2)
    await assert_consistent(loom.sql)


# Counters


async def sums(loom: Loom) -> list[Any]:
    rows = await loom.sql.fetch(
        "select queue, sum(queued), sum(processing), sum(completed), sum(failed), sum(cancelled),"
        " round(sum(busy)::numeric, 6) from treadle.counters group by queue order by queue"
    )
    return [tuple(row) for row in rows]


async def test_folding_keeps_the_sums(loom: Loom) -> None:
    await loom.register({"agent": "other", "queue": "side"})
    for n in range(20):
        await loom.submit(agent="other" if n % 3 else "echo")
    for queue in ("default", "side"):
        for n, claim in enumerate(await loom.claim(5, queues=[queue])):
            await loom.finish(claim, outcome=["completed", "rejected", "error", "released"][n % 4])
    before = await sums(loom)
    assert await number(loom, "select treadle.fold_counters(10)") == 10
    assert await sums(loom) == before
    await number(loom, "select treadle.fold_counters()")
    assert await sums(loom) == before
    rows = await number(loom, "select count(*) from treadle.counters")
    assert rows <= 2 * 12  # a row for each queue and ten seconds; ours took less than two minutes
    await loom.shift(400)
    assert await number(loom, "select treadle.fold_counters()") == rows
    assert await sums(loom) == before
    assert [row[0] for row in await loom.sql.fetch("select slot::text from treadle.counters")] == ["-infinity"] * 2


async def test_a_reader_sees_the_same_sums_while_others_count_and_fold(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 20)
    wanted = await number(loom, "select sum(queued + processing + completed) from treadle.counters")
    done = asyncio.Event()

    async def fold(own: Loom) -> None:
        while not done.is_set():
            await number(own, "select treadle.fold_counters(5)")

    async def work(own: Loom) -> None:
        while await own.run(1):
            pass

    async def look(own: Loom) -> None:
        while not done.is_set():
            assert await number(own, "select sum(queued + processing + completed) from treadle.counters") == wanted

    looms = [await loom.connect() for _ in range(4)]
    tasks = [asyncio.create_task(task) for task in (fold(looms[0]), fold(looms[1]), look(looms[2]))]
    await work(looms[3])
    done.set()
    await asyncio.gather(*tasks)


# The net


async def mend(loom: Loom, quantity: int = 5000) -> list[int]:
    """All the way through; returns how many each call mended."""
    after, mended = None, []
    while True:
        row = await loom.sql.fetchrow("select * from treadle.mend_lanes($1, $2)", after, quantity)
        if row["last"] is None:
            return mended
        mended.append(row["mended"])
        after = row["last"]


async def test_a_purged_lane_is_mended(loom: Loom) -> None:
    ids = [await loom.submit(priority=priority) for priority in ("high", "normal", "low", "normal")]
    held = [await loom.submit(thread_id="t") for _ in range(2)][1]
    delayed = await loom.submit(delay_seconds=60)
    running = (await loom.claim())[0]
    for lane in ("high", "normal", "low"):
        await loom.sql.execute("select pgmq.purge_queue($1)", f"default_{lane}")
    again = await loom.submit()
    assert await mend(loom) == [4]
    assert await mend(loom) == [0]
    assert await loom.state(held) == ("queued", "thread")
    assert await loom.state(delayed) == ("queued", "delay")
    assert await loom.finish(running) == ["completed"]
    claims = {claim.message_id for claim in await loom.claim(10)}
    assert claims == {*ids[1:], (await loom.thread("t"))["turn"], again}
    assert running.message_id == ids[0]


async def test_a_running_message_whose_lane_was_purged_goes_on_and_comes_back(loom: Loom) -> None:
    for outcome in ("completed", "error", "released", "rejected"):
        await loom.submit(outcome)
    claims = await loom.claim(10)
    await loom.sql.execute("select pgmq.purge_queue('default_normal')")
    await loom.shift(40)
    await loom.beat("w", *claims)
    for claim in claims:
        await loom.finish(claim, outcome=json.loads(claim.body), delay=0)
    await loom.sql.execute(ADMIT)
    assert sorted(json.loads(claim.body) for claim in await loom.claim(10)) == ["error", "released"]


async def test_mending_goes_through_the_table_in_parts(loom: Loom) -> None:
    await loom.submit_many(*[{}] * 10)
    await loom.sql.execute("select pgmq.purge_queue('default_normal')")
    assert await mend(loom, 4) == [4, 4, 2]
    assert len(await loom.claim(100)) == 10


async def test_mending_passes_over_what_others_hold(loom: Loom) -> None:
    locked, free = await loom.submit(), await loom.submit()
    await loom.sql.execute("select pgmq.purge_queue('default_normal')")
    other = await loom.connect()
    async with other.sql.transaction():
        await other.sql.execute("select from treadle.messages where message_id = $1 for update", locked)
        await loom.sql.execute("set lock_timeout = '1ms'")
        assert await mend(loom) == [1]
    assert await mend(loom) == [1]
    assert {claim.message_id for claim in await loom.claim(10)} == {locked, free}


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
