"""Progress forgives failures and losses, and what attempts used is added."""

from typing import Any
from uuid import UUID

import msgspec

from service.leases.model import Claim
from service.limits import MAX_ATTEMPTS
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row


async def append_step(sql_client: SqlClient, claim: Claim, **data: Any) -> None:
    rows = await sql_client.sql.fetch(
        "select * from treadle.append(array[$1::uuid], array[$2::uuid], array[$3::integer], '{1}', '{step}', $4, true)",
        claim.message_id,
        claim.lease,
        claim.last_seq + 1,
        [msgspec.json.encode({"name": f"step {claim.attempt}", "result": 1, **data}).decode()],
    )
    assert rows[0]["status"] == "ok"


async def park(sql_client: SqlClient, claim: Claim) -> None:
    """Ask a person, and answer."""
    await sql_client.sql.fetchval(
        "select treadle.conclude($1, $2, 'input', $3, null, null, null, null, $4, '{}', '{}', 3, null, null, null)",
        claim.message_id,
        claim.lease,
        '{"name": "input 1", "question": null}',
        claim.last_seq + 1,
    )
    await sql_client.sql.fetchval("select treadle.input($1, '1')", claim.message_id)


async def counts(sql_client: SqlClient, message_id: UUID) -> tuple[str, int, int]:
    row = await sql_client.message(message_id)
    return row["state"], row["failures"], row["losses"]


async def claim_next(sql_client: SqlClient) -> Claim:
    await sql_client.sql.execute("select treadle.admit_due()")
    return await sql_client.claim_one()


async def test_a_new_step_forgives_the_failures_before_it(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=2)
    await sql_client.finish(await sql_client.claim_one(), outcome="error", delay=0)
    for _ in range(3):
        claim = await claim_next(sql_client)
        await append_step(sql_client, claim)
        await sql_client.finish(claim, outcome="error", delay=0)
        assert await counts(sql_client, message_id) == ("queued", 1, 0)
    await sql_client.finish(await claim_next(sql_client), outcome="error", delay=0)
    assert await counts(sql_client, message_id) == ("failed", 2, 0)


async def test_a_new_step_forgives_the_losses_before_it(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    for _ in range(4):
        claim = await claim_next(sql_client)
        await append_step(sql_client, claim)
        await sql_client.finish(claim, outcome="lost", max_losses=2)
        assert await counts(sql_client, message_id) == ("queued", 0, 1)
    await sql_client.finish(await claim_next(sql_client), outcome="lost", max_losses=2)
    assert await counts(sql_client, message_id) == ("failed", 0, 2)


async def test_a_park_forgives_all_failures_and_all_losses_but_one(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=3)
    for outcome in ("error", "lost", "error", "lost"):
        await sql_client.finish(await claim_next(sql_client), outcome=outcome, delay=0)
    assert await counts(sql_client, message_id) == ("queued", 2, 2)
    await park(sql_client, await claim_next(sql_client))
    assert await counts(sql_client, message_id) == ("queued", 0, 1)


async def test_after_the_most_attempts_nothing_is_forgiven(sql_client: SqlClient) -> None:
    """A message whose steps have another name in each attempt must end, too."""
    charged = "select new_failures, new_losses from treadle._charge('error', true, $1, 5, 2)"
    assert tuple(await fetch_row(sql_client.sql, charged, MAX_ATTEMPTS - 1)) == (1, 1)
    assert tuple(await fetch_row(sql_client.sql, charged, MAX_ATTEMPTS)) == (6, 2)


async def test_what_attempts_used_is_added(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit(max_attempts=5)
    used = [
        {"tokens": 3, "model": "a", "price": 0.25},
        None,
        {"tokens": 4, "model": "b", "odd": [1]},
        {"tokens": "many", "price": 0.5},
    ]
    for usage in used:
        await sql_client.finish(await claim_next(sql_client), outcome="error", delay=0, usage=usage)
    row = await sql_client.message(message_id)
    assert row["usage"] == {"tokens": "many", "model": "b", "price": 0.75, "odd": [1]}


async def test_what_the_steps_of_a_lost_attempt_used_is_not_forgotten(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    for tokens in (3, 4):
        claim = await claim_next(sql_client)
        await append_step(sql_client, claim, usage={"tokens": tokens, "model": "m"})
        await sql_client.finish(claim, outcome="lost", usage=None)
    assert (await sql_client.message(message_id))["usage"] == {"tokens": 7}
    claim = await claim_next(sql_client)
    await append_step(sql_client, claim, usage={"tokens": 5})
    await sql_client.finish(claim, usage={"tokens": 6})  # which names its steps' as well
    assert (await sql_client.message(message_id))["usage"] == {"tokens": 13}
