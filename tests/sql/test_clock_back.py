"""The database's clock is set back by an hour, or a standby with a slow clock takes over."""

from typing import Any

import pytest

from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

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
