"""A chain of messages that send messages or publish records ends."""

import json

import uuid_utils.compat as uuid

from service.leases.model import Claim
from service.limits import CHAIN_ENDS, MAX_SEND_DEPTH
from tests.support.sql_client import SqlClient
from tests.support.topic_calls import Topics, refusal


async def test_a_chain_of_sent_messages_ends(sql_client: SqlClient) -> None:
    parent = await sql_client.submit()
    await sql_client.sql.execute("update treadle.messages set depth = $1", MAX_SEND_DEPTH - 1)
    last = await sql_client.submit(parent=str(parent))
    assert (await sql_client.message(last))["depth"] == MAX_SEND_DEPTH
    [row] = await sql_client.submit_many({"parent": str(last)}, strict=False)
    assert (row["state"], row["refusal_code"]) == ("refused", "TR422")
    [claim] = [claim for claim in await sql_client.claim(9) if claim.message_id == last]
    assert claim.depth == MAX_SEND_DEPTH


async def test_a_chain_through_topics_ends(topics: Topics) -> None:
    """Also where the publisher is a worker of the release before, whose agents may publish at any depth."""
    await topics.subscribe()
    await topics.client.submit()
    for depth in (0, MAX_SEND_DEPTH - 1):
        await topics.sql.execute("update treadle.messages set depth = $1", depth)
        claim = await topics.client.claim_one()
        assert await publish_under_lease(topics, claim) == "ok"
        await topics.client.finish(claim)
        await topics.route()
    claim = await topics.client.claim_one()
    assert claim.depth == MAX_SEND_DEPTH
    code, message = await refusal(publish_under_lease(topics, claim))
    assert (code, message) == ("TR422", CHAIN_ENDS)
    assert len(await topics.values()) == 2


async def test_a_record_keeps_its_depth(topics: Topics) -> None:
    """For a subscription that begins later or goes back, and while a transaction holds the thread of its key. A record
    that a client publishes begins a chain."""
    await topics.subscribe("first")
    await topics.publish("t", {"value": "first", "key": "k"})
    await topics.client.submit()
    await topics.sql.execute("update treadle.messages set depth = 7")
    sender = await topics.client.claim_one()
    await topics.route()
    user = await topics.client.connect()
    async with user.sql.transaction():
        await user.sql.execute("select from treadle.threads for no key update")
        assert await publish_under_lease(topics, sender) == "ok"
        await topics.route()
        assert await depths(topics, "first") == [0]
    await topics.route()
    assert await depths(topics, "first") == [0, 8]
    await topics.drain()
    await topics.sql.execute("select treadle.seek_subscription('first', 'earliest')")
    await topics.subscribe("second")
    await topics.route()
    assert await depths(topics, "first") == [0, 8, 0, 8]
    assert await depths(topics, "second") == [0, 8]


async def publish_under_lease(topics: Topics, claim: Claim) -> str:
    record = {"topic": "t", "value": "more", "key": "k", "record_id": str(uuid.uuid7())}
    status: str = await topics.sql.fetchval(
        "select status from treadle.append_and_send($1, $2, $3, '{step}', '{1}', $4)",
        claim.message_id,
        claim.lease,
        claim.last_seq + 1,
        json.dumps([record]),
    )
    return status


async def depths(topics: Topics, subscription: str) -> list[int]:
    rows = await topics.sql.fetch(
        "select m.depth from treadle.messages m join treadle.subscriptions s on s.id = m.subscription"
        " where s.subscription = $1 order by m.ord",
        subscription,
    )
    return [row["depth"] for row in rows]
