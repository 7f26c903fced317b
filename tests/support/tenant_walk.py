"""Messages of a tenant that take every way."""

import json
from uuid import UUID

from service.leases.model import Claim
from tests.support.sql_client import SqlClient
from tests.support.topic_calls import Topics


async def submit(sql_client: SqlClient, tenant: str, **fields: object) -> UUID:
    [row] = await sql_client.submit_many({"message": tenant, **fields}, tenant=tenant)
    return UUID(str(row["message_id"]))


async def send(sql_client: SqlClient, claim: Claim, outcome: str, **sent: object) -> None:
    """End an attempt with a message that it sends, and waits for where the outcome is children."""
    child = await sql_client.sql.fetchval("select treadle.uuid7()")
    status = await sql_client.sql.fetchval(
        "select treadle.conclude($1, $2, $3, $4, null, null, null, null, $5, '{}', '{}', 3, $6, '1', $7)",
        claim.message_id,
        claim.lease,
        outcome,
        '"ok"' if outcome == "completed" else "{}",
        claim.last_seq + 1,
        json.dumps([{"message": "sent", "message_id": str(child), "parent": str(claim.message_id), **sent}]),
        [child] if outcome == "children" else None,
    )
    assert status == ("queued" if outcome == "children" else "completed")


async def walk(sql_client: SqlClient, tenant: str) -> None:
    """Messages of the tenant that take every way, in threads of the same names; and a schema."""
    await sql_client.sql.execute(
        "select treadle.register_schema('s', 'JSON', '{}', treadle.uuid7(), latest => 0, tenant => $1),"
        " treadle.set_schema_rule('s', 'compatibility', 'FULL', tenant => $1)",
        tenant,
    )
    await submit(sql_client, tenant, thread_id="t")
    await sql_client.run(chunks=["a", "b"])
    failed = await submit(sql_client, tenant)
    await sql_client.run(outcome="rejected")
    await sql_client.sql.fetchval("select treadle.redrive($1, tenant => $2)", failed, tenant)
    await sql_client.run(outcome="error", delay=1000.0)
    await submit(sql_client, tenant, thread_id="t")
    await send(sql_client, await sql_client.claim_one(), "completed", thread_id="sent")
    await sql_client.run()
    parent = await submit(sql_client, tenant)
    await send(sql_client, await sql_client.claim_one(), "children", thread_id="t")
    await sql_client.sql.fetchval("select treadle.cancel($1, tenant => $2)", parent, tenant)
    await submit(sql_client, tenant, thread_id="gone")
    await sql_client.sql.fetchval("select treadle.delete_thread('gone', tenant => $1)", tenant)
    await submit(sql_client, tenant, delay_seconds=1000)
    await submit(sql_client, tenant, thread_id="t")
    await sql_client.claim_one()
    topics = Topics(sql_client)
    await topics.create("t", "gone", tenant=tenant)
    await topics.subscribe("s", "#", tenant=tenant)
    await topics.publish("t", {"value": 1, "key": "k"}, 2, tenant=tenant)
    await topics.publish("gone", 3, tenant=tenant)
    await topics.route()
    await sql_client.finish((await topics.claims())[0])
    await sql_client.sql.fetchval("select treadle.delete_topic('gone', tenant => $1)", tenant)
