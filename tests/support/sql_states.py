"""States of messages in SQL: check where a message stands, and bring messages into a state."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from service.leases.model import Claim
from tests.support.invariants import assert_consistent
from tests.support.sql_client import SqlClient

PLACES = pytest.mark.parametrize("place", [{}, {"thread_id": "t"}, {"thread_id": "t", "aside": True}], ids=str)


async def expect(
    sql_client: SqlClient,
    message_id: UUID,
    state: str,
    types: str,
    *,
    hold: str | None = None,
    lane: str | None = None,
    attempt: int = 0,
    failures: int = 0,
    losses: int = 0,
) -> asyncpg.Record:
    """Check the message's columns and the `types` of its events, and that the database is consistent."""
    message = await sql_client.message(message_id)
    found = {name: message[name] for name in ("state", "hold", "lane", "attempt", "failures", "losses")}
    wanted = {
        "state": state,
        "hold": hold,
        "lane": lane,
        "attempt": attempt,
        "failures": failures,
        "losses": losses,
    }
    assert found == wanted
    assert " ".join(await sql_client.types(message_id)) == types
    await assert_consistent(sql_client.sql)
    return message


async def thread_turn(sql_client: SqlClient) -> UUID | None:
    """The message whose turn it is in the thread 't'."""
    turn: UUID | None = (await sql_client.thread("t"))["turn"]
    return turn


async def lose_worker(sql_client: SqlClient, claim: Any, *, worker: str = "w") -> None:
    """Make the worker of a claim dead: it is unknown, its lease is old, and the janitor's heartbeat is steady."""
    clock = await sql_client.sql.fetchval("select extract(epoch from treadle.clock() - clock_timestamp())::integer")
    for seconds in range(0, 14, 2):
        await sql_client.shift_clock(clock + seconds)
        await sql_client.heartbeat("janitor")
    assert await sql_client.reap() == {claim.message_id: None}


async def claim_new(sql_client: SqlClient, quantity: int = 1, **fields: Any) -> list[Claim]:
    """Submit messages and claim them, each in its own thread by default; returns the claims, oldest first."""
    for n in range(quantity):
        await sql_client.submit(**{"thread_id": f"t{n}", **fields})
    claims = await sql_client.claim(quantity)
    assert len(claims) == quantity
    return claims


async def drain(sql_client: SqlClient) -> None:
    """Bring every open message to its end: none is stuck."""
    await sql_client.sql.execute("select treadle.pause('default', false)")
    shift = 1000
    while await sql_client.sql.fetchval("select exists (select from treadle.messages where completed_at is null)"):
        shift += 1000
        assert shift < 100_000, await sql_client.sql.fetch("select * from treadle.messages where completed_at is null")
        for seconds in range(shift, shift + 14, 2):
            await sql_client.shift_clock(seconds)
            await sql_client.heartbeat("janitor")
        await sql_client.reap(max_losses=1000)
        await sql_client.sql.execute("select admitted from treadle.admit_due()")
        while claims := await sql_client.claim(100, worker="drain"):
            assert not {"busy", "lost", "gap"} & set(await sql_client.finish(*claims))
    await assert_consistent(sql_client.sql)
