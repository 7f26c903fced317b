"""The database's clock is set back by an hour, or a standby with a slow clock takes over."""

import json
from typing import Any

import pytest

from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

pytestmark = pytest.mark.usefixtures("standing_clock")

HOUR = 3600


async def started(sql_client: SqlClient) -> Any:
    return await sql_client.sql.fetchval("select pg_postmaster_start_time()")


async def test_queued_messages_are_claimed_and_counted(sql_client: SqlClient) -> None:
    await sql_client.shift_clock(HOUR)
    ids = [await sql_client.submit(), await sql_client.submit(thread_id="t"), await sql_client.submit(thread_id="t")]
    await sql_client.shift_clock(0)
    assert await sql_client.sql.fetchval("select treadle.queue_position($1)", ids[1]) == 1
    overview = await fetch_row(sql_client.sql, "select ready, oldest_seconds from treadle.queue_overview")
    assert tuple(overview) == (2, 0)
    claims = await sql_client.claim(10)
    assert [claim.message_id for claim in claims] == ids[:2]
    assert await sql_client.finish(*claims) == ["completed", "completed"]
    assert [claim.message_id for claim in await sql_client.claim(10)] == [ids[2]]


async def test_a_row_that_is_hidden_for_a_lease_stays_hidden(sql_client: SqlClient) -> None:
    await sql_client.submit()
    await sql_client.shift_clock(HOUR)
    (claim,) = await sql_client.claim()
    await sql_client.shift_clock(0)
    assert await sql_client.claim() == []
    assert await sql_client.finish(claim, outcome="released") == ["queued"]
    assert len(await sql_client.claim()) == 1


@pytest.mark.parametrize("has_lock", [True, False])
async def test_a_dead_worker_is_noticed_as_soon_as_ever(sql_client: SqlClient, has_lock: bool) -> None:
    """By its free lock after 1.25 intervals, otherwise after the timeout."""
    message_id = await sql_client.submit()
    await sql_client.shift_clock(HOUR)
    (claim,) = await sql_client.claim()
    server = await started(sql_client) if has_lock else None
    await sql_client.heartbeat("w", claim, server_started=server)
    await sql_client.heartbeat("janitor")
    reaped_after = None
    for seconds in range(0, 30, 2):
        await sql_client.shift_clock(seconds)
        await sql_client.heartbeat("janitor")
        if message_id in await sql_client.reap():
            reaped_after = seconds
            break
    assert reaped_after is not None
    assert reaped_after <= (4 if has_lock else 12)


async def test_a_living_worker_is_not_taken_for_dead(sql_client: SqlClient) -> None:
    await sql_client.submit()
    await sql_client.shift_clock(HOUR)
    (claim,) = await sql_client.claim()
    server = await started(sql_client)
    for clock in (HOUR, 0, 2 * HOUR):  # back, and on
        for seconds in range(0, 14, 2):
            await sql_client.shift_clock(clock + seconds)
            await sql_client.heartbeat("janitor")
            assert await sql_client.heartbeat("w", claim, server_started=server) == {}
            assert await sql_client.reap() == {}
    assert await sql_client.finish(claim) == ["completed"]


@pytest.mark.parametrize("steps_to", [0, 2 * HOUR])
async def test_a_claim_is_released_only_if_its_answer_was_lost(sql_client: SqlClient, steps_to: int) -> None:
    """After a step of the clock its age says nothing, and the answer may still be on its way."""
    message_id = await sql_client.submit()
    await sql_client.shift_clock(HOUR)
    await sql_client.heartbeat("w")
    await sql_client.claim()
    await sql_client.shift_clock(steps_to)
    await sql_client.heartbeat("w", grace=5)
    assert await sql_client.state(message_id) == ("processing", None)
    await sql_client.shift_clock(steps_to + 2)
    await sql_client.heartbeat("w", grace=5)
    assert await sql_client.state(message_id) == ("queued", None)


async def test_delays_and_backoffs_take_as_long_as_they_should(sql_client: SqlClient) -> None:
    failed = await sql_client.submit()
    await sql_client.shift_clock(HOUR)
    await sql_client.finish(*await sql_client.claim(), outcome="error", delay=20)
    delayed = await sql_client.submit(delay_seconds=20)
    await sql_client.sql.execute("select treadle.sweep()")
    await sql_client.shift_clock(2)
    later = await sql_client.submit(delay_seconds=20)
    await sql_client.sql.execute("select treadle.sweep()")
    admitted = {}
    for seconds in (10, 21, 23):
        await sql_client.shift_clock(seconds)
        await sql_client.sql.execute("select treadle.admit_due()")
        admitted[seconds] = {claim.message_id for claim in await sql_client.claim(10)}
    assert admitted[10] == set()
    assert admitted[21] | admitted[23] == {failed, delayed, later}
    assert later in admitted[23]


async def test_a_tenant_may_submit_as_soon_as_ever(sql_client: SqlClient) -> None:
    limits = json.dumps({"per_minute": 2, "bytes_per_day": 100})
    await sql_client.sql.execute("select treadle.limit_tenant('default', $1)", limits)
    for clock in (HOUR, 0, 2 * HOUR, HOUR):  # on and back
        await sql_client.shift_clock(clock)
        rows = await sql_client.submit_many(*[{}] * 3, strict=False, autocommit=True)
        assert [row["state"] for row in rows] == ["queued", "queued", "refused"]
        left = await sql_client.sql.fetchval("select submits_left from treadle.limits_of()")
        assert left == 0
        await sql_client.shift_clock(clock + 70)
        assert await sql_client.sql.fetchval("select submits_left from treadle.limits_of()") == 2


async def test_a_message_waits_for_an_overloaded_service_as_long_as_it_should(sql_client: SqlClient) -> None:
    """Each backoff takes 20 seconds, whatever the clock does in it, in the lane and in the attempt."""
    await sql_client.submit(timeout_seconds=5)
    told: list[float | None] = []
    for clock in (0, HOUR, 2 * HOUR, 0, 30):
        await sql_client.shift_clock(clock)
        await sql_client.sql.execute("select treadle.sweep()")
        await sql_client.sql.execute("select treadle.admit_due()")
        if clock == 0 and told:  # its backoff goes on
            continue
        claim = await sql_client.claim_one()
        told.append(claim.overloaded_seconds)
        await sql_client.finish(claim, outcome="overloaded", delay=20)
    assert told[0] is None
    assert [round(seconds or 0, -1) for seconds in told[1:]] == [20, 40, 60]


async def test_a_step_within_an_attempt_counts_no_more_than_its_timeout(sql_client: SqlClient) -> None:
    await sql_client.submit(timeout_seconds=5)
    for clock in (0, 30, 60):
        await sql_client.shift_clock(clock)
        await sql_client.sql.execute("select treadle.admit_due()")
        claim = await sql_client.claim_one()
        await sql_client.shift_clock(clock + HOUR)
        await sql_client.finish(claim, outcome="overloaded", delay=20)
        await sql_client.sql.execute("update treadle.messages set run_at = run_at - interval '1 hour'")
        await sql_client.sql.execute(
            "update treadle.messages set overloaded_since = overloaded_since - interval '1 hour'"
        )
    await sql_client.shift_clock(90)
    await sql_client.sql.execute("select treadle.admit_due()")
    assert 60 <= ((await sql_client.claim_one()).overloaded_seconds or 0) <= 76


async def test_a_heartbeat_of_the_future_is_no_sign_of_life(sql_client: SqlClient) -> None:
    await sql_client.shift_clock(HOUR)
    await sql_client.heartbeat("w")
    living = "select live_workers from treadle.health()"
    assert await sql_client.sql.fetchval(living) == 1
    await sql_client.shift_clock(0)
    assert await sql_client.sql.fetchval(living) == 0
    await sql_client.heartbeat("w")
    assert await sql_client.sql.fetchval(living) == 1
