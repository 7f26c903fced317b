"""A remote worker that signs off while a claim of it runs: nothing stays with a worker that is gone."""

import asyncio

import asyncpg
import pytest

from tests.support.sql_client import SqlClient

REGISTER = """
    select treadle.remote_register('default', 'remote', 'host', 1, '[{"agent": "echo"}]', 10, false)"""
CLAIM = "select message_id from treadle.remote_claim('default', 'remote', 10, 60)"
SIGN_OFF = "select treadle.remote_sign_off('default', 'remote')"


async def test_what_a_claim_takes_during_the_sign_off_is_given_back(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.sql.execute(REGISTER)
    claiming = await sql_client.connect()
    async with claiming.sql.transaction():
        assert await claiming.sql.fetchval(CLAIM) == message_id
        signing_off = asyncio.create_task(sql_client.sql.execute(SIGN_OFF))
        await claiming.until_blocked(sql_client)
    await signing_off
    message = await sql_client.message(message_id)
    assert (message["state"], message["losses"]) == ("queued", 0)
    assert (await sql_client.claim_one()).message_id == message_id


async def test_a_claim_of_a_worker_that_signs_off_takes_nothing(sql_client: SqlClient) -> None:
    message_id = await sql_client.submit()
    await sql_client.sql.execute(REGISTER)
    signing_off = await sql_client.connect()
    async with signing_off.sql.transaction():
        await signing_off.sql.execute(SIGN_OFF)
        with pytest.raises(asyncpg.PostgresError, match="signs off") as raised:
            await sql_client.sql.fetchval(CLAIM)
        assert raised.value.sqlstate == "TR404"
    assert (await sql_client.claim_one()).message_id == message_id
