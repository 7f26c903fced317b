"""Submit in a transaction of the user's own, with the arguments of treadle.submit."""

import asyncio

import pytest

from tests.support.sql_client import SqlClient
from tests.support.waiting import LIMIT_SECONDS

SUBMIT = "select treadle.submit('hello', thread_id => 't', notify => true)"


async def test_a_submit_in_a_transaction_that_rolls_back_never_was(sql_client: SqlClient) -> None:
    before = await sql_client.all_rows()
    transaction = sql_client.sql.transaction()
    await transaction.start()
    await sql_client.sql.fetchval(SUBMIT)
    await transaction.rollback()
    assert await sql_client.all_rows() == before


async def test_a_submit_in_a_transaction_is_seen_when_it_commits(sql_client: SqlClient) -> None:
    user, listener = await sql_client.connect(), await sql_client.connect()
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    for channel in ("treadle_work", "treadle_events"):
        await listener.sql.add_listener(channel, lambda _c, _p, channel, payload: heard.put_nowait((channel, payload)))
    async with user.sql.transaction():
        await user.sql.execute("create table orders (message uuid)")
        message_id = await user.sql.fetchval(SUBMIT)
        await user.sql.execute("insert into orders values ($1)", message_id)
        assert await sql_client.claim(10) == []
        assert heard.empty()
    async with asyncio.timeout(LIMIT_SECONDS):
        thread = await sql_client.sql.fetchval("select thread from treadle.messages where message_id = $1", message_id)
        told = f"{message_id}:{thread}" if thread else str(message_id)
        assert {await heard.get(), await heard.get()} == {("treadle_work", "default"), ("treadle_events", told)}
    await listener.sql.reset()
    assert (await sql_client.claim_one()).message_id == message_id


@pytest.mark.parametrize(
    "call",
    [
        "treadle.submit_many('[{\"message\": \"x\"}]', lock_timeout => '5s')",
        'treadle.submit_many(\'[{"message": "x", "thread_id": "new"}]\', lock_timeout => \'5s\', patient => false)',
        "treadle.submit_once('k', '1', '[{\"message\": \"x\"}]')",
    ],
    ids=["submit_many", "impatient", "submit_once"],
)
async def test_the_user_s_own_patience_is_what_it_was(sql_client: SqlClient, call: str) -> None:
    async with sql_client.sql.transaction():
        await sql_client.sql.execute("set local lock_timeout = '77s'")
        await sql_client.sql.execute(f"select {call}")
        assert await sql_client.sql.fetchval("show lock_timeout") == "77s"


async def test_submit_has_all_the_fields(sql_client: SqlClient) -> None:
    await sql_client.register({"agent": "typed", "input": {"type": "object"}})
    message_id = await sql_client.sql.fetchval(
        "select treadle.submit('hello', 't', 'high', 'typed', '{\"a\": 1}', 5, 7, 8.5, true, true)"
    )
    message = await sql_client.message(message_id)
    wanted = {
        "body": "hello",
        "thread": (await sql_client.thread("t"))["id"],
        "priority": "high",
        "agent": "typed",
        "metadata": {"a": 1},
        "hold": "delay",
        "max_attempts": 7,
        "timeout_seconds": 8.5,
        "aside": True,
    }
    assert {name: message[name] for name in wanted} == wanted
    typed = await sql_client.sql.fetchval("select treadle.submit('{\"x\": 1}'::jsonb, agent => 'typed')")
    assert (await sql_client.message(typed))["body"] == {"x": 1}
    plain = await sql_client.sql.fetchval("select treadle.submit('hello')")
    assert (await sql_client.message(plain))["agent"] == "echo"
