"""What OpenAI's SDKs do when PostgreSQL goes away: they repeat a request only if that submits no second message."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from faults.proxy import Proxy
from service.db.pool import Connection
from tests.support.fixture_types import RegisterAgents, StartApi
from tests.support.proxies import database_proxy, dsn_through
from tests.support.waiting import let_the_loop_read, until

ASKED = {"model": "echo", "messages": [{"role": "user", "content": "x"}]}
PLACE = "/v1/chat/completions"
REPEAT = "x-should-retry"


@pytest.fixture
async def proxy(dsn: str) -> AsyncIterator[Proxy]:
    async with database_proxy(dsn) as proxy:
        yield proxy


async def test_a_request_that_was_submitted_is_repeated_only_with_a_key(
    dsn: str, proxy: Proxy, sql: Connection, start_api: StartApi, register_agents: RegisterAgents
) -> None:
    await register_agents()
    api = await start_api(database_url=dsn_through(dsn, proxy), poll_interval=0.1)

    def ask(**headers: str) -> "asyncio.Task[httpx.Response]":
        return asyncio.ensure_future(api.post(PLACE, json=ASKED, headers=headers))

    waiting = [ask(), ask(**{"Idempotency-Key": "k"})]
    await until(lambda: sql.fetchval("select count(*) from treadle.messages"), lambda count: count == 2)
    for row in await sql.fetch("select message_id from treadle.messages"):
        await api.get(f"/messages/{row['message_id']}")  # meanwhile the API reads the answers to its submits
    await let_the_loop_read()
    proxy.target = 1  # new connections lead nowhere
    proxy.cut()
    plain, keyed = await asyncio.gather(*waiting)
    assert [(answer.status_code, answer.headers[REPEAT]) for answer in (plain, keyed)] == [
        (503, "false"),
        (503, "true"),
    ]
    assert "GET /v1/responses/resp_" in plain.json()["error"]["message"]

    def is_invited(answer: Any) -> bool:
        return bool(answer.status_code == 503 and answer.headers[REPEAT] == "true")

    await until(ask, is_invited)  # nothing is written meanwhile
    assert await sql.fetchval("select count(*) from treadle.messages") == 2
