"""Deliveries as the transaction that ends a message writes them, and the order of locks around webhooks."""

import asyncio
import json
import runpy

import pytest

from tests.support.repository import ROOT
from tests.support.sql_calls import persist
from tests.support.sql_client import SqlClient
from tests.support.sql_rows import fetch_row

CREATE = "select webhook_id from treadle.create_webhook('https://example.com', $1, format => $2, tenant => $3)"
ENDS = ["message.completed", "message.failed"]
NOTE = "select treadle.note_post($1, treadle.uuid7(), $2, 'It failed.', $3, false)"


async def test_a_result_becomes_text_once_and_an_event_names_the_right_response(
    sql_client: SqlClient,
) -> None:
    sql = sql_client.sql
    for format_name in ("standard", "standard", "standard", "openai"):
        await sql.execute(CREATE, ENDS, format_name, "default")
    message_id = await sql_client.submit(callback_url="https://example.com/done")
    claim = await sql_client.claim_one()
    question = json.dumps({"name": "q", "question": "Really?"})
    asked = "select treadle.conclude($1, $2, 'input', $3, null, null, null, null, $4, '{}', '{}', 3, null, null, null)"
    assert await sql.fetchval(asked, message_id, claim.lease, question, claim.last_seq + 1) == "queued"
    stored = "select questions from treadle.messages where message_id = $1"
    assert await sql.fetchval(stored, message_id) == [3]
    await sql.execute("update treadle.messages set questions = null where message_id = $1", message_id)
    migration = runpy.run_path(str(ROOT / "migrations/versions/0017_questions.py"))
    await sql.execute(migration["STATEMENTS"])  # a message that asked before it
    assert await sql.fetchval(stored, message_id) == [3]
    await sql.execute("select treadle.input($1, '\"yes\"')", message_id)
    claim = await sql_client.claim_one()
    async with sql.transaction():
        await sql.execute("set local track_functions = 'all'")
        assert await sql_client.finish(claim, result="a" * 20_000) == ["completed"]
        calls = await sql.fetchval("select calls from pg_stat_xact_user_functions where funcname = '_webhook_data'")
    assert calls == 1
    bodies = [
        row["body"]
        for row in await sql.fetch("select body from treadle.messages where delivery is not null order by message_id")
    ]
    assert [body["data"]["omitted"] for body in bodies if body["type"] == "message.completed"] == [["result"]] * 4
    responses = [body["data"]["id"] for body in bodies if body["type"] == "response.completed"]
    assert responses == [f"resp_{message_id.hex}", f"resp_{message_id.hex}_3"]


@pytest.mark.parametrize("deleting", ["delete_webhook($1, 'acme')", "_delete_rest_of_tenant('acme', 1)"])
async def test_a_delete_waits_for_the_outcome_of_a_delivery_that_disables(sql_client: SqlClient, deleting: str) -> None:
    await sql_client.sql.execute("select treadle.create_tenant('acme')")
    row = await fetch_row(sql_client.sql, CREATE, ENDS, "standard", "acme")
    worker, other = await sql_client.connect(), await sql_client.connect()
    await sql_client.sql.execute(NOTE, row["webhook_id"], 500, False)
    async with worker.sql.transaction():
        await worker.sql.execute("select from treadle.webhooks for key share")  # as the note does first
        arguments = [row["webhook_id"]] if "$1" in deleting else []
        ending = asyncio.create_task(persist(lambda: other.sql.execute(f"select treadle.{deleting}", *arguments)))
        await sql_client.until_blocked(other)
        await worker.sql.execute(NOTE, row["webhook_id"], 410, True)  # it disables the webhook
    await ending
    assert await sql_client.sql.fetchval("select count(*) from treadle.webhook_outcomes") == 0


async def test_the_first_webhook_and_a_change_of_its_tenant_do_not_wait_in_a_circle(sql_client: SqlClient) -> None:
    sql, creating = sql_client.sql, await sql_client.connect()
    await sql.execute("select treadle.create_tenant('acme')")
    async with sql.transaction():
        await sql.execute("select from treadle.tenants where tenant = 'acme' for no key update")  # as the change does
        created = asyncio.create_task(persist(lambda: creating.sql.execute(CREATE, ENDS, "standard", "acme")))
        await sql_client.until_blocked(creating)
        await sql.execute("select treadle.limit_tenant('acme', '{\"running\": 2}')")
    await created
